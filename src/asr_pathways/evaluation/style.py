"""The report's style sheet: one column, system fonts, light and dark, colours told apart by colour-blind readers.

Series colours follow Okabe & Ito, "Color Universal Design" (2008), with lighter shades on dark.
"""

from __future__ import annotations

SERIES = 6

STYLE = """
:root {
  color-scheme: light dark;
  --page: #fdfdfc; --ink: #1b1f24; --soft: #5b636d; --rule: #dcdfe3; --tint: #f1f4f7;
  --heat: #0072b2; --wrong: #b3430a;
  --s0: #636b75; --s1: #d55e00; --s2: #00805d; --s3: #0072b2; --s4: #b0558a; --s5: #8a6d00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171b; --ink: #e4e7ea; --soft: #a0a8b2; --rule: #343a42; --tint: #1e232a;
    --heat: #56b4e9; --wrong: #f0a070;
    --s0: #a3abb5; --s1: #f08a3c; --s2: #3cc79d; --s3: #56b4e9; --s4: #e19dc3; --s5: #e3c64a;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
}
main { max-width: 58rem; margin: 0 auto; padding: 3rem 1.25rem 5rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .75rem; letter-spacing: -.01em; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 0 0 .75rem; }
section { margin-top: 3rem; }
p { max-width: 44rem; margin: 0 0 1rem; }
.summary { font-size: 1.15rem; line-height: 1.5; }
.soft, small, figcaption, caption { color: var(--soft); }
small { font-size: .8em; }
dl.numbers {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: 1rem; margin: 2rem 0 0;
}
dl.numbers > div { border-top: 3px solid var(--colour); padding-top: .5rem; }
dl.numbers dt { font-size: .9rem; color: var(--soft); }
dl.numbers dd { margin: 0; }
dl.numbers .big { font-size: 1.75rem; line-height: 1.25; font-weight: 600; }
dl.numbers dd, td, .number { font-variant-numeric: tabular-nums; }
.frame { overflow-x: auto; margin: 0 0 1rem; }
.tall { max-height: 36rem; overflow: auto; }
figure + .frame { margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; font-size: .925rem; }
caption { text-align: left; padding: 0 0 .6rem; font-size: .9rem; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--rule); vertical-align: top; }
th { text-align: left; font-weight: 500; }
table:not(.layers) tr > th:first-child { padding-left: 0; }
thead th { color: var(--soft); font-size: .875rem; vertical-align: bottom; }
td, th.number { text-align: right; }
td.words { text-align: left; }
td small { display: block; white-space: nowrap; }
th[scope=colgroup] { color: var(--ink); text-align: right; }
tr.mean > * { font-weight: 650; border-top: 2px solid var(--soft); }
tr.mean small { font-weight: 400; }
td.main { background: var(--tint); }
table.heat { width: auto; }
table.heat td, table.heat thead th { text-align: center; min-width: 4.1rem; }
table.heat td { border: 2px solid var(--page); background: color-mix(in srgb, var(--heat) var(--v), var(--page)); }
table.heat thead th:first-child { text-align: left; }
table.heat th[scope=row] { border-bottom-color: transparent; }
table.layers { font-size: .8rem; }
table.layers td, table.layers th { padding: .12rem .5rem; border-width: 1px; }
table.layers th[scope=row] { font-family: ui-monospace, "Cascadia Mono", Menlo, monospace; white-space: nowrap; }
table.layers thead th { position: sticky; top: 0; background: var(--page); z-index: 1; }
table.layers td.apart { border-left: 1rem solid var(--page); }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(25rem, 100%), 1fr)); gap: 0 2rem; }
figure { margin: 1.5rem 0 0; }
figure svg { display: block; width: 100%; min-width: 34rem; height: auto; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
figcaption { font-size: .9rem; max-width: 44rem; }
ul.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; padding: 0; margin: 0 0 .5rem; }
ul.legend span { color: var(--colour); margin-right: .4em; }
details { margin-top: 1rem; }
summary { cursor: pointer; color: var(--soft); margin-bottom: .75rem; }
.sample { margin-top: 2rem; }
.sample td { text-align: left; font-variant-numeric: normal; }
.sample td.number { text-align: right; white-space: nowrap; width: 1%; font-variant-numeric: tabular-nums; }
.sample th[scope=row] { white-space: nowrap; width: 1%; }
mark { background: none; color: var(--wrong); font-weight: 600; }
del { color: var(--soft); }
ins { color: var(--wrong); text-decoration: underline; text-underline-offset: .2em; }
code, pre { font-family: ui-monospace, "Cascadia Mono", Menlo, monospace; font-size: .875rem; }
pre { background: var(--tint); padding: .75rem 1rem; overflow-x: auto; border-radius: 4px; margin: 0 0 1rem; }
table.plain { width: auto; }
table.plain td { text-align: left; }
@media print { main { padding: 0; max-width: none; } .tall { max-height: none; } section { break-inside: avoid; } }
"""
