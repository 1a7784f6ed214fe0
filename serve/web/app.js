// The page: what is asked for, the video that is looked at, and the list of all.

import { ask as request, blob, events, get, post, Refusal, setToken, token } from "./api.js";
import { compose, setModel } from "./compose.js";
import { $, ask, filled, make, problem, show, tried } from "./dom.js";
import { compare, play, stop } from "./player.js";

const still = matchMedia("(prefers-reduced-motion: reduce)");
const ENDED = ["completed", "failed"];
let video = null; // the one looked at
let watching = null; // ends its events
let chosen = 0; // the segment whose controls are shown
let drawn = ""; // which controls are
let file = null; // the source that was uploaded from this page
let last = null; // of the list

async function start() {
  try {
    const models = await get("v1/models");
    setModel(models.data[0]);
    const { id, width, height, fps } = models.data[0];
    $("model").textContent = `Long videos that follow a video of yours, segment by segment. ${id}, ${width}x${height}, ${fps} frames/s.`;
  } catch (error) {
    if (!(error instanceof Refusal) || error.status !== 401) throw error;
    show($("token-open"), true);
    const said = await ask({ title: "This server asks for a token", yes: "Go on", token: "" });
    if (!said?.token) throw error;
    setToken(said.token);
    return start();
  }
  show($("token-open"), Boolean(token()));
  await list();
  const wanted = new URLSearchParams(location.search).get("video");
  if (wanted) await open(wanted);
}

async function open(id, source = null) {
  watching?.abort();
  stop();
  file = source;
  chosen = 0;
  drawn = "";
  $("segments").replaceChildren();
  $("status").textContent = "";
  history.replaceState(null, "", id ? `?video=${id}` : location.pathname);
  video = null;
  show($("job"), false);
  show($("nothing"), true);
  mark();
  if (!id) return;
  render(await get(`v1/videos/${id}`));
  mark();
  if (!ENDED.includes(video.status)) watch(id);
}

/** Follow a video: events say that something happened, the video itself says what. */
async function watch(id) {
  const mine = (watching = new AbortController());
  let asked = 0;
  try {
    for await (const event of events(id, mine.signal)) {
      if (event.type === "deleted") return open(null);
      if (event.type === "step" && performance.now() - asked < 400) continue;
      asked = performance.now();
      const now = await get(`v1/videos/${id}`);
      if (mine.signal.aborted) return;
      render(now);
    }
    if (!mine.signal.aborted) {
      render(await get(`v1/videos/${id}`));
      await list();
    }
  } catch (error) {
    if (!mine.signal.aborted) problem(error);
  }
}

function render(now) {
  video = now;
  const ended = ENDED.includes(now.status);
  const [width, height] = now.size.split("x").map(Number);
  $("stage").style.setProperty("--ratio", `${width} / ${height}`);
  show($("job"), true);
  show($("nothing"), false);
  $("progress").value = now.progress;
  const said = statusOf(now);
  if ($("status").textContent !== said) $("status").textContent = said;
  const any = now.segments_done > 0 || Boolean(now.extends);
  $("waiting").textContent = ended ? "There is nothing to see." : waitingFor(now);
  if (!any) show($("waiting"), true);
  else play(now);
  show($("cancel"), !ended && !now.cancel_requested);
  show($("extend"), now.status === "completed");
  show($("download"), now.status === "completed");
  show($("compare"), now.variants.includes("source"));
  $("download").href = `v1/videos/${now.id}/content`;
  $("download").download = `${now.id}.mp4`;
  $("about").textContent =
    `${now.num_frames} frames, ${Number(now.seconds).toFixed(1)} s, ${now.size}, seed ${now.seed}` +
    (now.remixed_from_video_id ? `; made anew from segment ${now.from_segment + 1} of another video` : "") +
    (now.extends ? "; goes on from another video" : "");
  drawSegments();
  drawControls();
}

function statusOf(now) {
  if (now.status === "completed") return `Done: ${now.num_segments} segment${now.num_segments > 1 ? "s" : ""}.`;
  if (now.status === "failed") return now.error?.code === "cancelled" ? "Cancelled." : `Failed: ${now.error?.message}`;
  if (now.cancel_requested) return "Stopping.";
  if (now.status === "queued") return "Waiting for its turn.";
  if (now.stage === "preparing") return "Taking depth and tracks from the source.";
  return `Making segment ${Math.min(now.segments_done + 1, now.num_segments)} of ${now.num_segments}.`;
}

function waitingFor(now) {
  if (now.status === "queued") return "Waiting for its turn.";
  return now.stage === "preparing" ? "Taking depth and tracks from the source." : "The first segment is being made.";
}

const STATES = { completed: "done", in_progress: "now", queued: "waits" };

function drawSegments() {
  const items = $("segments");
  if (items.children.length !== video.segments.length) {
    items.replaceChildren(...video.segments.map((segment) => segmentCard(segment.index)));
  }
  for (const segment of video.segments) {
    const item = items.children[segment.index];
    item.className = segment.status;
    item.classList.toggle("now", segment.status === "in_progress");
    item.classList.toggle("shown", segment.index === chosen);
    item.querySelector(".state").textContent = STATES[segment.status];
    item.querySelector("progress").value = segment.status === "completed" ? 1 : segment.step / segment.num_steps;
    item.querySelector("p").textContent = segment.prompt;
    show(item.querySelector(".remix"), ENDED.includes(video.status) && segment.index <= video.segments_done);
  }
}

function segmentCard(index) {
  const name = make("span", { className: "name" });
  name.append(make("span", { text: `Segment ${index + 1}` }), make("span", { className: "state" }));
  const bar = make("progress", { max: 1, value: 0, "aria-label": `Segment ${index + 1}` });
  const look = make("button", { type: "button", className: "quiet look", text: "Controls" });
  look.setAttribute("aria-label", `Depth and tracks of segment ${index + 1}`);
  look.addEventListener("click", () => {
    chosen = index;
    drawSegments();
    drawControls();
  });
  const anew = make("button", { type: "button", className: "quiet remix", text: "Anew from here" });
  anew.setAttribute("aria-label", `Make anew from segment ${index + 1}`);
  anew.addEventListener("click", tried(() => remix(index)));
  return make("li", {}, name, bar, make("p"), look, anew);
}

/** Depth and tracks of the chosen segment, as soon as they are known. */
async function drawControls() {
  const kinds = ["dense", "sparse"].filter((kind) => video.variants.includes(kind));
  const key = `${video.id} ${chosen} ${kinds}`;
  if (drawn === key) return;
  drawn = key;
  show($("controls"), kinds.length > 0);
  for (const kind of ["dense", "sparse"]) show($(kind).parentElement, kinds.includes(kind));
  await Promise.all(kinds.map((kind) => drawControl(kind, chosen, key)));
}

async function drawControl(kind, index, key) {
  const data = await blob(`v1/videos/${video.id}/content?variant=${kind}&segment=${index}`);
  if (drawn !== key) return;
  const name = kind === "dense" ? "Depth" : "Tracks";
  $(kind).setAttribute("aria-label", `${name} of segment ${index + 1}`);
  await animate($(kind), data, () => drawn === key);
}

/** Frames of a WebP on a canvas; the first alone where motion is unwanted or the browser cannot take it apart. */
async function animate(canvas, data, wanted) {
  const paint = (image) => {
    canvas.width = image.displayWidth ?? image.width;
    canvas.height = image.displayHeight ?? image.height;
    canvas.getContext("2d").drawImage(image, 0, 0);
    image.close();
  };
  if (still.matches || !("ImageDecoder" in window)) return paint(await createImageBitmap(data));
  const decoder = new ImageDecoder({ data: data.stream(), type: data.type });
  await decoder.tracks.ready;
  await decoder.completed;
  const count = decoder.tracks.selectedTrack.frameCount;
  const next = async (index) => {
    if (!wanted()) return decoder.close();
    const { image } = await decoder.decode({ frameIndex: index % count });
    const wait = (image.duration ?? 125000) / 1000;
    paint(image);
    if (count > 1) setTimeout(() => next(index + 1), wait);
  };
  await next(0);
}

async function remix(index) {
  const said = await ask({
    title: `Make anew from segment ${index + 1}`,
    help: index ? `Segments 1 to ${index} stay as they are.` : "All segments are made again.",
    yes: "Make anew",
    prompt: video.segments[index].prompt,
    seed: video.seed,
  });
  if (!said) return;
  const made = await post(`v1/videos/${video.id}/remix`, filled({ ...said, from_segment: index }));
  await opened(made, file);
}

async function opened(made, source = null) {
  await open(made.id, source);
  await list();
  $("view").focus();
}

async function list(older = false) {
  const after = older && last ? `&after=${last}` : "";
  const page = await get(`v1/videos?limit=12${after}`);
  last = page.last_id ?? last;
  const items = page.data.map(listItem);
  if (older) $("list").append(...items);
  else $("list").replaceChildren(...items);
  show($("more"), page.has_more);
  if (!$("list").children.length) $("list").append(make("li", { className: "help", text: "None yet." }));
  mark();
}

function listItem(one) {
  const picture = make("span", { className: "blank" });
  if (one.variants.includes("thumbnail")) {
    blob(`v1/videos/${one.id}/content?variant=thumbnail`)
      .then((data) => {
        const image = make("img", { alt: "", src: URL.createObjectURL(data) });
        image.onload = () => URL.revokeObjectURL(image.src);
        picture.replaceWith(image);
      })
      .catch(() => {});
  }
  const when = new Date(one.created_at * 1000).toLocaleString();
  const words = make("span", {}, make("span", { className: "what", text: one.prompt }),
    make("span", { className: "when", text: `${statusOf(one)} ${when}` }));
  const link = make("a", { href: `?video=${one.id}` }, picture, words);
  link.dataset.id = one.id;
  link.addEventListener("click", (event) => {
    event.preventDefault();
    tried(open)(one.id).then(() => $("view").focus());
  });
  return make("li", {}, link);
}

function mark() {
  for (const link of document.querySelectorAll("#list a")) {
    if (link.dataset.id === video?.id) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
}

async function askForToken() {
  const said = await ask({ title: "Token", help: "Kept until this tab closes.", yes: "Use it", token: "" });
  if (!said) return;
  setToken(said.token);
  await start();
}

async function extend() {
  const said = await ask({
    title: "Go on",
    help: "A new video that begins with this one. Without controls, the prompt alone leads it.",
    yes: "Extend",
    prompt: video.segments.at(-1).prompt,
    seconds: "",
  });
  if (!said) return;
  await opened(await post("v1/videos/extensions", { video: { id: video.id }, ...filled(said) }));
}

async function remove() {
  const said = await ask({ title: "Delete this video?", help: "Its files go with it.", yes: "Delete" });
  if (!said) return;
  await request(`v1/videos/${video.id}`, { method: "DELETE" });
  await open(null);
  await list();
}

async function download(event) {
  if (!token()) return; // the link itself does it
  event.preventDefault();
  const url = URL.createObjectURL(await blob(`v1/videos/${video.id}/content`));
  make("a", { href: url, download: `${video.id}.mp4` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

compose(tried((made) => opened(made, $("source").files[0] ?? null)));
addEventListener("unhandledrejection", (event) => {
  event.preventDefault();
  problem(event.reason);
});
$("cancel").addEventListener("click", tried(async () => render(await post(`v1/videos/${video.id}/cancel`))));
$("extend").addEventListener("click", tried(extend));
$("delete").addEventListener("click", tried(remove));
$("download").addEventListener("click", tried(download));
$("compare").addEventListener("click", tried(() => compare($("beside").hidden, video, file)));
$("more").addEventListener("click", tried(() => list(true)));
$("token-open").addEventListener("click", tried(askForToken));
tried(start)();
