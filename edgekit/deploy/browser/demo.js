// Runs the served .tflite with LiteRT.js on the arrays that `edgekit predict` fed, and shows both answers.
import {loadAndCompile, loadLiteRt, Tensor} from '@litertjs/core';

const ARRAYS = {float32: Float32Array, int32: Int32Array, uint8: Uint8Array};
const MOST_SCORES = 5;
const MOST_THREADS = 4;

const $ = (id) => document.getElementById(id);
let file, compiled;

function say(text, bad = false) {
  $('state').textContent = text;
  $('state').classList.toggle('bad', bad);
}

async function load() {
  file = await (await fetch('model.json')).json();
  // Threads need shared memory, which browsers give to isolated pages alone.
  await loadLiteRt('/litertjs/core/wasm/', {threads: crossOriginIsolated});
  const numThreads = crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, MOST_THREADS) : 1;
  compiled = await loadAndCompile('/model.tflite', {accelerator: 'wasm', cpuOptions: {numThreads}});
  $('run').disabled = false;
  say('Ready.');
}

/** Scores of the file's raw outputs: real values first, then what makes probabilities of them. */
function scoresOf(raw) {
  const {scale, zero_point: zero} = file.output;
  const values = Array.from(raw, (value) => scale === null ? value : (value - (zero ?? 0)) * scale);
  if (file.activation === 'sigmoid') return values.map((value) => 1 / (1 + Math.exp(-value)));
  if (file.activation !== 'softmax') return values;
  const largest = Math.max(...values);
  const powers = values.map((value) => Math.exp(value - largest));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / sum);
}

/** One inference in the browser; `inputs` holds dtype, shape and values by input name. */
async function infer(inputs, signature) {
  const fed = {};
  for (const [name, {dtype, shape, values}] of Object.entries(inputs)) fed[name] = new Tensor(new ARRAYS[dtype](values), shape);
  try {
    const started = performance.now();
    const outputs = signature ? await compiled.run(signature, fed) : await compiled.run(fed);
    const raw = await outputs[file.output.name].data();
    const milliseconds = performance.now() - started;
    const values = scoresOf(raw);
    Object.values(outputs).forEach((tensor) => tensor.delete());
    const scores = Object.fromEntries(values.map((value, index) => [file.labels[index], value]));
    return {label: file.labels[values.indexOf(Math.max(...values))], scores, milliseconds};
  } finally {
    Object.values(fed).forEach((tensor) => tensor.deleted || tensor.delete());
  }
}

async function ask() {
  const image = file.kind === 'image';
  if (image && !$('image').files.length) throw new Error('choose an image first');
  const body = image ? $('image').files[0] : JSON.stringify({text: $('text').value, ...(file.pairs && {pair: $('pair').value})});
  const response = await fetch(image ? '/predict/image' : '/predict/text', {method: 'POST', body});
  const found = await response.json();
  if (found.error) throw new Error(found.error);
  return found;
}

function show(id, {label, scores, milliseconds}, timed) {
  const element = (tag, text, className = '') => Object.assign(document.createElement(tag), {textContent: text, className});
  const rows = Object.entries(scores).sort(([, a], [, b]) => b - a).slice(0, MOST_SCORES).map(([name, score]) => {
    const row = element('div', '', 'score');
    const bar = Object.assign(document.createElement('meter'), {value: score, ariaLabel: name});
    row.append(element('span', name), element('span', score.toFixed(4)), bar);
    return row;
  });
  const heading = $(id).querySelector('h2');
  $(id).replaceChildren(heading, element('div', label, 'label'), element('div', `${milliseconds.toFixed(2)} ms, ${timed}`, 'time'), ...rows);
}

/** One question to both. */
async function run() {
  $('run').disabled = true;
  say('Running …');
  try {
    const {inputs, predict, signature} = await ask();
    const browser = await infer(inputs, signature);
    show('browser', browser, 'inference');
    show('predict', predict, file.kind === 'text' ? 'tokens and inference' : 'decoding and inference');
    $('remark').textContent = predict.remark ? `Note: ${predict.remark}.` : '';
    $('results').hidden = false;
    say(browser.label === predict.label ? 'Both say the same.' : 'They differ.', browser.label !== predict.label);
  } catch (error) {
    say(`Failed: ${error.message}`, true);
  } finally {
    $('run').disabled = false;
  }
}

$('ask').addEventListener('submit', (event) => {
  event.preventDefault();
  run();
});
$('text')?.addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) $('ask').requestSubmit();
});
$('image')?.addEventListener('change', () => {
  const chosen = $('image').files[0];
  $('preview').hidden = !chosen;
  if (chosen) $('preview').src = URL.createObjectURL(chosen);
});

load().catch((error) => say(`The model cannot be loaded: ${error.message ?? error}`, true));
