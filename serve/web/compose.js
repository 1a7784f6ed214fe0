// The form: a source or the sample, a first frame, prompts on a timeline; from all this, a request.

import { submit } from "./api.js";
import { $, make, show } from "./dom.js";

const SETTINGS = ["seconds", "seed", "steps", "guidance_scale", "size", "noise"];
let model = null;
let sample = false;
let duration = null; // seconds of the source, as far as the browser can tell

export function setModel(card) {
  model = card;
  $("steps").placeholder = card.steps;
  $("guidance_scale").placeholder = card.guidance_scale;
  $("size").placeholder = `${card.width}x${card.height}`;
  drawPrompts();
}

/** Wire the form up; `sent` gets the video that was asked for, and the source's file if it is at hand. */
export function compose(sent) {
  $("source").addEventListener("change", () => useFile());
  $("sample").addEventListener("click", () => useSample(!sample));
  $("source-preview").addEventListener("loadedmetadata", () => setDuration($("source-preview").duration));
  $("source-preview").addEventListener("error", () => {
    show($("source-preview"), false);
    setDuration(null);
  });
  $("first_frame").addEventListener("change", () => preview($("first-preview"), $("first_frame").files[0]));
  $("seconds").addEventListener("input", drawPrompts);
  const drop = $("drop");
  drop.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    if (!event.dataTransfer.files.length) return;
    $("source").files = event.dataTransfer.files;
    useFile();
  });
  $("form").addEventListener("submit", async (event) => {
    event.preventDefault();
    await send(sent);
  });
}

function useFile() {
  sample = false;
  $("sample").setAttribute("aria-pressed", "false");
  setDuration(null);
  preview($("source-preview"), $("source").files[0]);
}

function useSample(on) {
  sample = on;
  $("sample").setAttribute("aria-pressed", String(on));
  $("source").value = "";
  setDuration(null);
  preview($("source-preview"), null, on ? "static/sample.mp4" : null);
}

function preview(element, file, url = null) {
  if (element.src.startsWith("blob:")) URL.revokeObjectURL(element.src);
  const shown = file ? URL.createObjectURL(file) : url;
  if (shown) element.src = shown;
  else element.removeAttribute("src");
  show(element, Boolean(shown));
}

function setDuration(seconds) {
  duration = Number.isFinite(seconds) && seconds > 0 ? seconds : null;
  drawPrompts();
}

/** One field a segment; what was written stays. */
function drawPrompts() {
  const asked = Number($("seconds").value) || null;
  const seconds = duration && asked ? Math.min(duration, asked) : duration;
  const list = $("prompts");
  const before = [...list.querySelectorAll("input")].map((input) => input.value);
  list.replaceChildren();
  if (!model || !seconds) {
    $("length").textContent =
      sample || $("source").files.length
        ? "This browser cannot tell how long the source is: one prompt for all."
        : "Choose a source to see its segments.";
    return;
  }
  const frames = Math.max(1, Math.round(seconds * model.fps));
  const count = Math.max(1, Math.ceil((frames - 1) / (model.segment_length - 1)));
  const each = (model.segment_length - 1) / model.fps;
  $("length").textContent =
    `${seconds.toFixed(1)} s: ${count} segment${count > 1 ? "s" : ""} of ${each.toFixed(1)} s. Empty ones take the prompt above.`;
  for (let index = 0; index < count; index++) {
    const id = `prompt-${index}`;
    const from = (index * each).toFixed(1);
    list.append(
      make("li", {}, make("label", { text: `${index + 1}, from ${from} s`, htmlFor: id }),
        make("input", { id, type: "text", value: before[index] ?? "" })),
    );
  }
}

function request() {
  const form = new FormData();
  const own = [...$("prompts").querySelectorAll("input")].map((input) => input.value.trim());
  const all = $("prompt").value.trim();
  if (own.some(Boolean)) form.set("segments", JSON.stringify(own.map((text) => ({ prompt: text || all }))));
  else form.set("prompt", all);
  for (const name of SETTINGS) if ($(name).value.trim()) form.set(name, $(name).value.trim());
  if (sample) form.set("controls", JSON.stringify({ source: "sample" }));
  else form.set("source", $("source").files[0]);
  if ($("first_frame").files.length) form.set("first_frame", $("first_frame").files[0]);
  return form;
}

async function send(sent) {
  for (const field of document.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
  if (!sample && !$("source").files.length) {
    wrong("source");
    throw new Error("Choose a source video, or use the sample.");
  }
  $("generate").disabled = true;
  show($("upload"), !sample);
  try {
    const video = await submit(request(), (part) => ($("upload").value = part));
    await sent(video);
  } catch (error) {
    wrong(error.param?.replace("controls.", ""));
    throw error;
  } finally {
    $("generate").disabled = false;
    show($("upload"), false);
  }
}

function wrong(param) {
  const field = param && $(param);
  if (!field || !("value" in field)) return;
  field.setAttribute("aria-invalid", "true");
  field.closest("details")?.setAttribute("open", "");
  field.focus();
}
