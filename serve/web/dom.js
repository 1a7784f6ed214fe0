// The page's elements by id, and small things that several parts need.

export const $ = (id) => document.getElementById(id);

export function show(element, shown) {
  element.hidden = !shown;
}

export function make(tag, { text, ...properties } = {}, ...children) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-")) element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

export function problem(error) {
  $("problem").textContent = error ? error.message : "";
  show($("problem"), Boolean(error));
  if (error) $("problem").scrollIntoView({ block: "nearest" });
}

/** Run what a click asks for; what goes wrong is said on the page. */
export const tried = (work) => async (...given) => {
  problem(null);
  try {
    return await work(...given);
  } catch (error) {
    problem(error);
  }
};

/** Ask in the dialog; the fields' values, or null if the answer is no. */
export function ask({ title, help = "", yes, ...fields }) {
  $("ask-title").textContent = title;
  $("ask-help").textContent = help;
  $("ask-yes").textContent = yes;
  for (const name of ["prompt", "seed", "seconds", "token"]) {
    show($(`ask-${name}-field`), name in fields);
    $(`ask-${name}`).value = fields[name] ?? "";
  }
  const dialog = $("ask");
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener(
      "close",
      () => {
        const said = Object.fromEntries(Object.keys(fields).map((name) => [name, $(`ask-${name}`).value.trim()]));
        resolve(dialog.returnValue === "yes" ? said : null);
      },
      { once: true },
    );
  });
}

/** Only what was filled in; numbers as numbers. */
export function filled(said) {
  const numbers = ["seed", "from_segment"];
  const kept = Object.entries(said).filter(([, value]) => value !== "" && value !== undefined);
  return Object.fromEntries(kept.map(([name, value]) => [name, numbers.includes(name) ? Number(value) : value]));
}
