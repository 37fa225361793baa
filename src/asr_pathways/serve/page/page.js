// The page: what the server says goes onto it, and what people do goes to the server. Nothing else is asked for.
import { srt } from "./srt.js";

const $ = (id) => document.getElementById(id);
const segments = [];  // final results: {text, language, start, end, words}
let token = sessionStorage.getItem("token") ?? "";
let model = null;
let live = null;  // the microphone's stream, while there is one
const MANY = 12;  // languages: more are a list, not buttons
let past = 0;  // seconds of earlier streams and recordings: times on the page go on

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

const headers = () => (token ? { Authorization: `Bearer ${token}` } : {});

async function failure(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `the server answered ${response.status}`;
  }
}

const language = () => document.querySelector("input[name=language]:checked, select[name=language]").value;

function name(code) {
  try {
    return new Intl.DisplayNames([code], { type: "language" }).of(code);
  } catch {
    return code;
  }
}

async function open() {
  let response;
  try {
    response = await fetch("/v1/models", { headers: headers() });
  } catch {
    return say("The server does not answer.", true);
  }
  $("login").hidden = response.status !== 401;
  if (response.status === 401) {
    if (token) say("That is not the token.", true);
    return $("token").focus();
  }
  if (!response.ok) return say(await failure(response), true);
  model = (await response.json()).data[0];
  sessionStorage.setItem("token", token);
  $("model").textContent = model.id;
  const auto = model.auto ? ["auto"] : [];
  if (model.languages.length > MANY) $("languages").append(list(auto));
  else $("languages").append(...[...model.languages, ...auto].map(choice));
  $("panel").hidden = false;
  say("");
  show();
}

function list(auto) {
  const select = Object.assign(document.createElement("select"), { name: "language", ariaLabel: "Language" });
  const named = model.languages.map((code) => [name(code), code]);
  named.sort(([one], [other]) => one.localeCompare(other));
  for (const [text, code] of [...auto.map((code) => ["Auto", code]), ...named]) {
    const option = new Option(text, code);
    if (code !== "auto") option.lang = code;
    select.append(option);
  }
  select.addEventListener("change", choose);
  return select;
}

function choice(code, index) {
  const label = document.createElement("label");
  const input = Object.assign(document.createElement("input"), { type: "radio", name: "language", value: code });
  input.checked = index === 0;
  input.addEventListener("change", choose);
  label.append(input, code === "auto" ? "Auto" : name(code));
  if (code !== "auto") label.lang = code;
  const share = model.kept[code];
  if (share !== undefined) {
    const svg = '<svg class="share" aria-hidden="true" viewBox="0 0 100 1" preserveAspectRatio="none">' +
      `<rect width="100" height="1"/><rect width="${(100 * share).toFixed(1)}" height="1"/></svg>`;
    label.insertAdjacentHTML("beforeend", svg);
  }
  return label;
}

function show() {
  const auto = language() === "auto", code = auto ? live?.spoken : language(), share = model.kept[code];
  const bar = document.querySelector(".share") ? " (the bar below its name)" : "";
  const kept = share === undefined ? ", the whole model" :
    `, which keeps ${Math.round(100 * share)}% of the model's prunable weights${bar}`;
  $("pathway").textContent = code ? `${auto ? "Identified" : "Pathway"}: ${name(code)}${kept}` :
    "The language is identified in what is said.";
  for (const label of document.querySelectorAll("#languages label")) {
    label.classList.toggle("active", label.control.value === code);
  }
  $("microphone").textContent = live ? "Stop" : "Start the microphone";
  $("microphone").classList.toggle("on", Boolean(live));
  $("srt").disabled = $("clear").disabled = !segments.length;
}

function choose() {
  if (live) live.spoken = null;
  // A stream that is not open yet is told when it is.
  if (live?.socket?.readyState === WebSocket.OPEN) live.socket.send(JSON.stringify({ language: language() }));
  show();
}

// Who has scrolled up to read is left there.
function follow(element) {
  if (innerHeight + scrollY > document.documentElement.scrollHeight - 250) element.scrollIntoView({ block: "nearest" });
}

function add(segment, offset) {
  const moved = (value) => Math.round(1000 * (value + offset)) / 1000;
  segments.push({
    text: segment.text, language: segment.language, start: moved(segment.start), end: moved(segment.end),
    words: (segment.words ?? []).map((word) => ({ ...word, start: moved(word.start), end: moved(word.end) })),
  });
  const added = segments.at(-1), whole = Math.floor(added.start);
  const paragraph = Object.assign(document.createElement("p"), { lang: added.language });
  const time = document.createElement("time");
  time.textContent = `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")} ${added.language}`;
  paragraph.append(time, added.text);
  $("finals").append(paragraph);
  follow(paragraph);
  show();
}

class Live {
  async start() {
    if (!navigator.mediaDevices) {
      throw new Error("The browser opens the microphone only on https pages, and on localhost.");
    }
    this.sound = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1 } });
    this.context = new AudioContext();
    await this.context.audioWorklet.addModule("/page/microphone.js");
    this.offset = past;
    this.seconds = 0;
    const query = token ? `?token=${encodeURIComponent(token)}` : "";
    this.socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/v1/stream${query}`);
    this.socket.addEventListener("message", (event) => this.take(JSON.parse(event.data)));
    this.closed = new Promise((resolve) => this.socket.addEventListener("close", resolve));
    await new Promise((resolve, reject) => {
      this.socket.addEventListener("open", resolve);
      this.socket.addEventListener("error", () => reject(new Error("No stream: the server is busy, or gone.")));
    });
    this.socket.send(JSON.stringify({ language: language(), sample_rate: this.context.sampleRate, encoding: "s16le" }));
    const node = new AudioWorkletNode(this.context, "microphone", { channelCount: 1, channelCountMode: "explicit" });
    node.port.onmessage = (event) => this.send(event.data);
    this.context.createMediaStreamSource(this.sound).connect(node);
    this.closed.then(() => this.end());
  }

  send(samples) {
    let sum = 0;
    const data = new Int16Array(samples.length);
    samples.forEach((sample, index) => {
      sum += sample * sample;
      data[index] = Math.max(-32768, Math.min(32767, Math.round(32768 * sample)));
    });
    const level = 10 * Math.log10(sum / samples.length + 1e-10);  // -60 dB to 0
    $("level").value = Math.max(0, Math.min(1, 1 + level / 60));
    if (this.socket.readyState !== WebSocket.OPEN || this.ending) return;
    this.seconds += samples.length / this.context.sampleRate;
    this.zero ??= performance.now() - 1000 * this.seconds;  // when the first sample was spoken
    this.socket.send(data);
    if (this.socket.bufferedAmount > 2_000_000) {
      this.problem = "The network is too slow for the sound.";
      this.stop();
    }
  }

  take(message) {
    if (message.type === "error") this.problem = message.message;
    if (message.type !== "partial" && message.type !== "final") return;
    if (message.language !== this.spoken) {
      this.spoken = message.language;
      show();
    }
    if (message.type === "final") add(message, this.offset);
    const partial = message.type === "partial" ? message : { text: "", stable: "" };
    const stable = Object.assign(document.createElement("span"), { className: "stable", textContent: partial.stable });
    $("partial").replaceChildren(stable, partial.text.slice(partial.stable.length));
    $("partial").lang = message.language;
    if (message.type === "partial") {
      const seconds = (performance.now() - this.zero) / 1000 - message.end;
      $("latency").textContent = `${seconds.toFixed(2)} s`;
      follow($("partial"));
    }
    $("factor").textContent = message.real_time_factor.toFixed(3);
  }

  stop() {
    this.ending = true;
    for (const track of this.sound?.getTracks() ?? []) track.stop();
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send('{"eof": 1}');
    else this.end();
  }

  end() {
    if (live !== this) return;
    for (const track of this.sound?.getTracks() ?? []) track.stop();
    this.context?.close();
    past = this.offset + this.seconds;
    live = null;
    $("level").value = 0;
    $("partial").textContent = "";
    if (this.problem || !this.ending) say(this.problem ?? "The server has ended the stream.", true);
    else say("Stopped.");
    show();
  }
}

async function toggle() {
  if (live) return live.stop();
  live = new Live();
  show();
  say("");
  try {
    await live.start();
    say("Speak.");
  } catch (error) {
    for (const track of live.sound?.getTracks() ?? []) track.stop();
    live.context?.close();
    live = null;
    say(error.message, true);
  }
  show();
}

async function transcribe(file) {
  if (!file) return;
  say(`${file.name}: being recognised …`);
  const form = new FormData();
  form.append("file", file);
  form.append("language", language());
  form.append("response_format", "verbose_json");
  const begun = performance.now();
  try {
    const response = await fetch("/v1/audio/transcriptions", { method: "POST", headers: headers(), body: form });
    if (!response.ok) return say(await failure(response), true);
    const result = await response.json(), seconds = (performance.now() - begun) / 1000;
    const offset = live ? live.offset + live.seconds : past;
    for (const segment of result.segments) add(segment, offset);
    if (!live) past += result.duration;
    $("factor").textContent = (seconds / result.duration).toFixed(3);
    say(`${file.name}: ${result.duration.toFixed(1)} s in ${seconds.toFixed(1)} s.${result.text ? "" : " No words."}`);
  } catch {
    say("The server does not answer.", true);
  }
}

$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token").value;
  open();
});
$("microphone").addEventListener("click", toggle);
$("clear").addEventListener("click", () => {
  segments.length = 0;
  $("finals").replaceChildren();
  show();
});
$("srt").addEventListener("click", () => {
  const address = URL.createObjectURL(new Blob([srt(segments)], { type: "application/x-subrip" }));
  Object.assign(document.createElement("a"), { href: address, download: "captions.srt" }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
});
$("file").addEventListener("change", (event) => {
  transcribe(event.target.files[0]);
  event.target.value = "";
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && model) transcribe(event.dataTransfer.files[0]);
  });
}
open();
