// Sends the samples of the microphone in blocks of a tenth of a second.
registerProcessor("microphone", class extends AudioWorkletProcessor {
  constructor() {
    super();
    this.block = new Float32Array(Math.round(sampleRate / 10));
    this.count = 0;
  }

  process([[samples]]) {
    for (const sample of samples ?? []) {
      this.block[this.count++] = sample;
      if (this.count === this.block.length) {
        this.port.postMessage(this.block.slice());
        this.count = 0;
      }
    }
    return true;
  }
});
