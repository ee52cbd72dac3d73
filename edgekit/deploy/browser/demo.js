// Runs the served .tflite with LiteRT.js on the arrays that `edgekit predict` fed, and shows both answers.
import {loadAndCompile, loadLiteRt, Tensor} from '@litertjs/core';

const ARRAYS = {float32: Float32Array, int32: Int32Array, uint8: Uint8Array};
const MOST_SCORES = 5;
const MOST_ROWS = 50;
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

/** One inference in the browser; `inputs` holds dtype, shape and values by input name. Gives flat raw outputs by name. */
async function infer(inputs, signature) {
  const fed = {};
  for (const [name, {dtype, shape, values}] of Object.entries(inputs)) fed[name] = new Tensor(new ARRAYS[dtype](values), shape);
  try {
    const started = performance.now();
    const tensors = signature ? await compiled.run(signature, fed) : await compiled.run(fed);
    const outputs = {};
    for (const [name, tensor] of Object.entries(tensors)) outputs[name] = await tensor.data();
    const milliseconds = performance.now() - started;
    for (const name of Object.keys(outputs)) outputs[name] = Array.from(outputs[name]);
    Object.values(tensors).forEach((tensor) => tensor.delete());
    return {outputs, milliseconds};
  } finally {
    Object.values(fed).forEach((tensor) => tensor.deleted || tensor.delete());
  }
}

async function post(path, body) {
  const found = await (await fetch(path, {method: 'POST', body})).json();
  if (found.error) throw new Error(found.error);
  return found;
}

function ask() {
  const image = file.kind === 'image';
  if (image && !$('image').files.length) throw new Error('choose an image first');
  const pair = $('pair') && {pair: $('pair').value};
  return image ? post('/predict/image', $('image').files[0]) : post('/predict/text', JSON.stringify({text: $('text').value, ...pair}));
}

const said = (value) => typeof value === 'number' ? String(Number(value.toFixed(4))) : typeof value === 'string' ? value : JSON.stringify(value).slice(0, 200);

/** What an answer holds as rows of name, value and, for a share of 1, a bar: named numbers the largest first, else in order. */
function rowsOf(fields) {
  const isScores = (value) => value && !Array.isArray(value) && typeof value === 'object';
  const lists = Object.values(fields).filter((value) => isScores(value) || (Array.isArray(value) && isScores(value[0])));
  if (!lists.length) return Object.entries(fields).map(([name, value]) => [name, said(value), null]);
  return lists.flatMap((value) => Array.isArray(value)
    ? value.slice(0, MOST_ROWS).map((item) => [Object.values(item).filter((part) => typeof part === 'string').join(' '), said(item.score ?? ''), item.score])
    : Object.entries(value).sort(([, a], [, b]) => b - a).slice(0, MOST_SCORES).map(([name, score]) => [name, score.toFixed(4), score]));
}

function show(id, {answer, fields, milliseconds}, timed) {
  const element = (tag, text, className = '') => Object.assign(document.createElement(tag), {textContent: text, className});
  const rows = rowsOf(fields).map(([name, value, share]) => {
    const row = element('div', '', 'score');
    row.append(element('span', name), element('span', value));
    if (share >= 0 && share <= 1 && share !== null) row.append(Object.assign(document.createElement('meter'), {value: share, ariaLabel: name}));
    return row;
  });
  const heading = $(id).querySelector('h2');
  $(id).replaceChildren(heading, element('div', answer, 'label'), element('div', `${milliseconds.toFixed(2)} ms, ${timed}`, 'time'), ...rows);
}

/** One question to both. */
async function run() {
  $('run').disabled = true;
  say('Running …');
  try {
    const {inputs, predict, signature, row} = await ask();
    const {outputs, milliseconds} = await infer(inputs, signature);
    const browser = await post('/read', JSON.stringify({row, outputs}));
    show('browser', {...browser, milliseconds}, 'inference');
    show('predict', predict, file.kind === 'text' ? 'tokens and inference' : 'decoding and inference');
    $('remark').textContent = predict.remark ? `Note: ${predict.remark}.` : '';
    $('results').hidden = false;
    say(browser.answer === predict.answer ? 'Both say the same.' : 'They differ.', browser.answer !== predict.answer);
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
