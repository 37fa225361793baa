// Final results as SubRip captions: of at most two lines of 42 letters, and seven seconds.
const LETTERS = 84, LONGEST = 7, PAUSE = 2;

function time(seconds) {
  const whole = Math.max(0, Math.round(seconds * 1000));
  const two = (value) => String(value).padStart(2, "0");
  return `${two(Math.floor(whole / 3600000))}:${two(Math.floor(whole / 60000) % 60)}:` +
    `${two(Math.floor(whole / 1000) % 60)},${String(whole % 1000).padStart(3, "0")}`;
}

export function lines(text) {
  if (text.length <= LETTERS / 2) return text;
  const middle = text.length / 2;
  const spaces = [...text.matchAll(/ /g)].map((found) => found.index);
  if (!spaces.length) return text;
  const best = spaces.reduce((one, other) => (Math.abs(other - middle) < Math.abs(one - middle) ? other : one));
  return `${text.slice(0, best)}\n${text.slice(best + 1)}`;
}

export function captions(segments) {
  const cues = [];
  for (const segment of segments) {
    const words = segment.words.length ? segment.words : [{ word: segment.text, start: segment.start, end: segment.end }];
    let cue = null;
    for (const { word, start, end } of words) {
      const longer = cue && `${cue.text} ${word}`;
      if (cue && longer.length <= LETTERS && end - cue.start <= LONGEST && start - cue.end <= PAUSE) {
        cue.text = longer;
        cue.end = end;
      } else {
        cues.push(cue = { text: word, start, end });
      }
    }
  }
  return cues;
}

export function srt(segments) {
  return captions(segments).map(({ text, start, end }, index) =>
    `${index + 1}\n${time(start)} --> ${time(end)}\n${lines(text.replace(/--+>/g, "->"))}\n`).join("\n");
}
