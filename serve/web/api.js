// The HTTP API as functions. A token, if the server asks for one, lives as long as the tab.

const TOKEN = "longvie-token";

export class Refusal extends Error {
  constructor(status, error) {
    super(error?.message ?? `the server answers with ${status}`);
    this.status = status;
    this.code = error?.code;
    this.param = error?.param;
  }
}

export const token = () => sessionStorage.getItem(TOKEN);
export const setToken = (text) => (text ? sessionStorage.setItem(TOKEN, text) : sessionStorage.removeItem(TOKEN));
export const authorization = () => (token() ? { Authorization: `Bearer ${token()}` } : {});

export async function ask(path, options = {}) {
  const answer = await fetch(path, { ...options, headers: { ...authorization(), ...options.headers } });
  if (!answer.ok) throw new Refusal(answer.status, (await answer.json().catch(() => ({}))).error);
  return answer;
}

export const get = async (path) => (await ask(path)).json();
export const post = async (path, body = {}) =>
  (await ask(path, { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } })).json();
export const blob = async (path) => (await ask(path)).blob();

/** Ask for a video; `told` hears how much of the body is sent, 0..1. */
export function submit(form, told) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // fetch does not tell how far an upload is
    request.open("POST", "v1/videos");
    for (const [name, value] of Object.entries(authorization())) request.setRequestHeader(name, value);
    request.setRequestHeader("Idempotency-Key", crypto.randomUUID?.() ?? String(Math.random()));
    request.responseType = "json";
    request.upload.onprogress = (at) => at.lengthComputable && told(at.loaded / at.total);
    request.onload = () =>
      request.status < 300 ? resolve(request.response) : reject(new Refusal(request.status, request.response?.error));
    request.onerror = () => reject(new Error("the server cannot be reached"));
    request.send(form);
  });
}

/** Events of a video as they come, until it ends or `signal` aborts; a broken connection is taken up where it broke. */
export async function* events(id, signal) {
  let last = null;
  while (!signal.aborted) {
    try {
      const headers = last === null ? {} : { "Last-Event-ID": last };
      const answer = await ask(`v1/videos/${id}/events`, { headers, signal });
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        const blocks = (rest + value).split("\n\n");
        rest = blocks.pop();
        for (const block of blocks) {
          const event = parse(block);
          if (event.type === undefined) continue;
          last = event.id ?? last;
          yield event;
          if (event.type === "deleted" || ["completed", "failed"].includes(event.data.status)) return;
        }
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Refusal && error.status < 500) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

function parse(block) {
  const fields = Object.fromEntries(
    block.split("\n").filter((line) => /^(id|event|data): /.test(line)).map((line) => {
      const at = line.indexOf(": ");
      return [line.slice(0, at), line.slice(at + 2)];
    }),
  );
  return { id: fields.id, type: fields.event, data: fields.data ? JSON.parse(fields.data) : {} };
}
