// Plays a video while it is made: HLS by hls.js, or by the browser itself; and the source in step beside it.

import { authorization, blob, token } from "./api.js";
import { $, show } from "./dom.js";
import Hls from "./vendor/hls.mjs";

let hls = null;
let playing = null; // id of the video
let own = null; // URL of the source's bytes

export function stop() {
  hls?.destroy();
  hls = null;
  playing = null;
  $("player").removeAttribute("src");
  $("player").load();
  compare(false);
  const source = $("source-player");
  source.removeAttribute("src");
  source.load();
  if (own) URL.revokeObjectURL(own);
  own = null;
}

/** Begin with what there is; entries that come later are played when they come. */
export function play(video) {
  if (playing === video.id) return;
  playing = video.id;
  const url = `v1/videos/${video.id}/hls/playlist.m3u8`;
  const element = $("player");
  if (Hls.isSupported()) {
    hls = new Hls({
      startPosition: 0, // from the beginning, not from the newest segment
      liveDurationInfinity: false,
      enableWorker: false,
      xhrSetup: (request) => {
        for (const [name, value] of Object.entries(authorization())) request.setRequestHeader(name, value);
      },
    });
    hls.on(Hls.Events.ERROR, (_, data) => {
      if (!data.fatal) return;
      if (data.type === Hls.ErrorTypes.MEDIA_ERROR) hls.recoverMediaError();
      else setTimeout(() => hls?.startLoad(), 2000);
    });
    hls.loadSource(url);
    hls.attachMedia(element);
  } else if (!token() && element.canPlayType("application/vnd.apple.mpegurl")) {
    element.src = url;
  } else if (video.status === "completed") {
    blob(`v1/videos/${video.id}/content`).then((data) => (element.src = URL.createObjectURL(data)));
  }
  element.play().catch(() => {}); // the browser wants a click first
}

/** The source beside the video; `file` if the page still has it. */
export async function compare(on, video, file) {
  show($("beside"), on);
  $("compare").setAttribute("aria-pressed", String(on));
  if (!on) return;
  if (!own) {
    own = URL.createObjectURL(file ?? (await blob(`v1/videos/${video.id}/content?variant=source`)));
    $("source-player").src = own;
  }
  step();
}

function step() {
  const [made, source] = [$("player"), $("source-player")];
  if ($("beside").hidden) return;
  if (Math.abs(source.currentTime - made.currentTime) > 0.15) source.currentTime = made.currentTime;
  source.playbackRate = made.playbackRate;
  const still = made.paused || made.readyState < 3;
  if (still !== source.paused) {
    if (still) source.pause();
    else source.play().catch(() => {});
  }
}

for (const kind of ["play", "pause", "seeked", "ratechange", "timeupdate", "waiting", "playing"]) {
  $("player").addEventListener(kind, step);
}
$("player").addEventListener("loadeddata", () => show($("waiting"), false));
