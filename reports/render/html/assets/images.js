// The image browser: two variants of one picture under a slider, all variants beside it, and the pictures to choose from.
const PAGE_SIZE = 60;
const FILTERS = [
  ["All verdicts", () => true],
  ["GenEval verdict changed", (left, right) => left !== right && left !== "-" && right !== "-"],
  ["Left correct, right wrong", (left, right) => left === "1" && right === "0"],
  ["Left wrong, right correct", (left, right) => left === "0" && right === "1"],
];
const VERDICTS = { 1: ["good", "\u2713 correct"], 0: ["bad", "\u2717 wrong"], "-": ["none", "not judged"] };
const view = { data: null, left: 0, right: 0, filter: 0, kind: 0, words: [], found: [], at: 0, split: 50, sheet: new Set() };
const sheets = new Map();
const parts = {};

function startImages() {
  view.data = dataOf("image-data");
  const host = document.getElementById("images");
  if (!view.data) return;
  Object.assign(view, { left: view.data.left, right: view.data.right });
  view.sheet = new Set(view.data.variants.keys());
  host.append(imageControls(), imageStage(), make("h3", {}, "The same picture by every variant"), imageStrip(),
    make("h3", {}, "All pictures shown"), imageList());
  document.addEventListener("keydown", imageKeys);
  // Sheets are decoded when the browser comes near the window.
  new IntersectionObserver((entries, observer) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    observer.disconnect();
    filterImages();
  }, { rootMargin: "600px" }).observe(host);
}

// Null for a sheet that this browser cannot show, which a line then says.
function sheetOf(variant) {
  if (!sheets.has(variant)) {
    const image = new Image();
    image.src = document.getElementById(`sheet-${variant}`).textContent;
    sheets.set(variant, image.decode().then(() => image, () => {
      parts.broken.hidden = false;
      parts.broken.textContent = `This browser cannot show the images of ${view.data.variants[variant].label}.`;
      return null;
    }));
  }
  return sheets.get(variant);
}

// Cuts a tile into a canvas of its size, which the style enlarges: small ones pixel by pixel, large ones smoothly.
async function paint(canvas, variant, shot) {
  const [width, height] = view.data.tile, wanted = `${variant} ${shot}`;
  canvas.dataset.wanted = wanted;
  const image = await sheetOf(variant);
  if (canvas.dataset.wanted !== wanted) return; // another one was asked for meanwhile
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  canvas.classList.toggle("smooth", Math.max(width, height) > 96);
  const context = canvas.getContext("2d"), [, , , , , x, y] = view.data.shots[shot];
  context.clearRect(0, 0, width, height);
  if (image) context.drawImage(image, x, y, width, height, 0, 0, width, height);
  canvas.dataset.painted = wanted;
}

function imageControls() {
  const names = view.data.variants.map((variant) => variant.label);
  const again = (key) => (index) => { view[key] = index; filterImages(); };
  parts.left = choice("Left", names, view.left, again("left"));
  parts.right = choice("Right", names, view.right, again("right"));
  const search = make("input", { type: "search", id: "search", placeholder: "in prompts", autocomplete: "off" });
  search.addEventListener("input", () => {
    view.words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    filterImages();
  });
  parts.count = make("p", { class: "count", role: "status" });
  return make("div", { class: "controls" }, parts.left, parts.right,
    choice("Verdict", FILTERS.map((filter) => filter[0]), 0, again("filter")),
    choice("Kind", ["All kinds", ...view.data.kinds], 0, again("kind")),
    make("div", { class: "control" }, make("label", { for: "search" }, "Search"), search), parts.count);
}

function imageStage() {
  parts.under = make("canvas", { class: "tile" });
  parts.over = make("canvas", { class: "tile over" });
  parts.frame = make("div", { class: "frame" }, parts.under, parts.over, make("div", { class: "divider", "aria-hidden": "true" }));
  parts.slider = make("input", { type: "range", min: 0, max: 100, value: view.split, "aria-label": "Slide between left and right" });
  parts.slider.addEventListener("input", () => split(Number(parts.slider.value)));
  const drag = (event) => {
    const box = parts.frame.getBoundingClientRect();
    split(Math.max(0, Math.min(100, Math.round(((event.clientX - box.left) / box.width) * 100))));
  };
  parts.frame.addEventListener("pointerdown", (event) => { parts.frame.setPointerCapture(event.pointerId); drag(event); });
  parts.frame.addEventListener("pointermove", (event) => { if (parts.frame.hasPointerCapture(event.pointerId)) drag(event); });
  parts.previous = make("button", { type: "button", class: "plain" }, "\u2190 Previous");
  parts.next = make("button", { type: "button", class: "plain" }, "Next \u2192");
  parts.previous.addEventListener("click", () => goTo(view.at - 1));
  parts.next.addEventListener("click", () => goTo(view.at + 1));
  parts.prompt = make("blockquote", { dir: "auto" });
  parts.kind = make("p", { class: "kind" });
  parts.compared = make("div", { class: "compared" });
  parts.broken = make("p", { class: "empty", role: "alert", hidden: "" });
  parts.none = make("p", { class: "empty", hidden: "" }, "No picture is left: widen the filters.");
  parts.stage = make("div", { class: "stage", tabindex: 0, role: "group", "aria-label": "Compared pictures; arrow keys change the picture" },
    make("div", { class: "pictures" }, parts.frame, parts.slider),
    make("div", { class: "told" }, parts.prompt, parts.kind, parts.compared,
      make("div", { class: "steps" }, parts.previous, parts.next, make("p", { class: "hint" }, "or the arrow keys"))));
  return make("div", {}, parts.broken, parts.none, parts.stage);
}

function imageStrip() {
  parts.strip = make("div", { class: "strip" });
  parts.tiles = view.data.variants.map((variant, index) => {
    const canvas = make("canvas", { class: "tile" });
    const button = make("button", { type: "button", class: "thumb", title: `Compare ${variant.label}` },
      canvas, make("span", { class: "thumb-name" }, variant.label), make("span", { class: "verdict" }));
    button.addEventListener("click", () => { view.right = index; parts.right.lastChild.value = index; filterImages(); });
    parts.strip.append(button);
    return button;
  });
  const boxes = view.data.variants.map((variant, index) => {
    const box = make("input", { type: "checkbox", checked: "" });
    box.addEventListener("change", () => {
      if (box.checked) view.sheet.add(index); else view.sheet.delete(index);
      showStrip();
    });
    return make("label", {}, box, ` ${variant.label}`);
  });
  return make("div", {}, parts.strip, make("details", { class: "chosen" }, make("summary", {}, "Choose variants"), ...boxes));
}

function imageList() {
  parts.list = make("div", { class: "strip list" });
  parts.pages = make("p", { class: "count" });
  parts.back = make("button", { type: "button", class: "plain" }, "\u2190 Earlier");
  parts.forth = make("button", { type: "button", class: "plain" }, "Later \u2192");
  parts.back.addEventListener("click", () => showList(parts.page - 1));
  parts.forth.addEventListener("click", () => showList(parts.page + 1));
  return make("div", {}, parts.list, make("div", { class: "steps" }, parts.back, parts.forth, parts.pages));
}

// Which pictures are shown: by verdict, kind and words; the one looked at stays where it can.
function filterImages() {
  const current = view.found[view.at], { shots, variants } = view.data;
  const left = variants[view.left].verdicts, right = variants[view.right].verdicts;
  view.found = [...shots.keys()].filter((shot) => FILTERS[view.filter][1](left[shot], right[shot])
    && (view.kind === 0 || shots[shot][4] === view.kind - 1)
    && view.words.every((word) => `${shots[shot][3]} ${shots[shot][0]}`.toLowerCase().includes(word)));
  parts.count.textContent = `${view.found.length} of ${shots.length} pictures`;
  const empty = !view.found.length;
  parts.none.hidden = !empty;
  parts.stage.hidden = empty;
  parts.page = -1;
  goTo(Math.max(0, view.found.indexOf(current)));
}

function goTo(at) {
  view.at = Math.max(0, Math.min(view.found.length - 1, at));
  if (view.found.length) showStage();
  showStrip();
  const page = Math.floor(view.at / PAGE_SIZE);
  if (page !== parts.page) showList(page);
  for (const button of parts.list.children) button.setAttribute("aria-current", String(Number(button.dataset.at) === view.at));
}

function showStage() {
  const shot = view.found[view.at], [id, sample, seed, prompt, kind] = view.data.shots[shot];
  paint(parts.under, view.right, shot);
  paint(parts.over, view.left, shot);
  split(view.split);
  parts.prompt.textContent = prompt;
  parts.kind.textContent = `${view.data.kinds[kind]}, ${id}, sample ${sample}, seed ${seed}`;
  const sides = [["Left", view.left], ["Right", view.right]].map(([side, index]) => {
    const variant = view.data.variants[index];
    const name = variant.record ? make("a", { href: `#${variant.record}` }, variant.label) : variant.label;
    return make("div", {}, make("p", { class: "side" }, side), make("p", { class: "name" }, name),
      verdict(variant.verdicts[shot]), make("p", { class: "scores" }, scores(variant, shot)));
  });
  parts.compared.replaceChildren(...sides);
  parts.previous.disabled = view.at === 0;
  parts.next.disabled = view.at === view.found.length - 1;
  const names = [view.left, view.right].map((index) => view.data.variants[index].label);
  parts.over.setAttribute("aria-label", `${names[0]}: ${prompt}`);
  parts.under.setAttribute("aria-label", `${names[1]}: ${prompt}`);
  for (const canvas of [parts.over, parts.under]) canvas.setAttribute("role", "img");
}

function split(percent) {
  view.split = percent;
  parts.slider.value = percent;
  parts.slider.setAttribute("aria-valuetext", `${percent}% left, ${100 - percent}% right`);
  parts.frame.style.setProperty("--split", `${percent}%`);
}

function verdict(sign) {
  const [name, text] = VERDICTS[sign];
  return make("span", { class: `verdict ${name}` }, text);
}

function scores(variant, shot) {
  const told = [["HPS", variant.hps[shot]], ["CLIP", variant.clip[shot]]].filter((entry) => entry[1] !== null);
  return told.map(([name, score]) => `${name} ${score.toFixed(2)}`).join(", ") || "no score of this picture";
}

function showStrip() {
  const shot = view.found[view.at];
  parts.tiles.forEach((button, index) => {
    button.hidden = shot === undefined || !view.sheet.has(index);
    if (button.hidden) return;
    const variant = view.data.variants[index];
    paint(button.firstChild, index, shot);
    button.setAttribute("aria-pressed", String(index === view.right));
    button.lastChild.replaceWith(verdict(variant.verdicts[shot]));
    button.lastChild.append(variant.hps[shot] === null ? "" : ` HPS ${variant.hps[shot].toFixed(1)}`);
  });
}

// A page of pictures at a time: thousands of canvases would stop the browser.
function showList(page) {
  const last = Math.max(0, Math.ceil(view.found.length / PAGE_SIZE) - 1);
  parts.page = Math.max(0, Math.min(last, page));
  const from = parts.page * PAGE_SIZE, right = view.data.variants[view.right];
  parts.list.replaceChildren(...view.found.slice(from, from + PAGE_SIZE).map((shot, index) => {
    const canvas = make("canvas", { class: "tile" });
    const button = make("button", { type: "button", class: "thumb", "data-at": from + index, "aria-current": String(from + index === view.at) },
      canvas, make("span", { class: "thumb-name", dir: "auto" }, view.data.shots[shot][3]), verdict(right.verdicts[shot]));
    button.addEventListener("click", () => { goTo(from + index); parts.stage.scrollIntoView({ block: "nearest" }); });
    paint(canvas, view.right, shot);
    return button;
  }));
  parts.pages.textContent = view.found.length ? `${from + 1} to ${Math.min(view.found.length, from + PAGE_SIZE)} of ${view.found.length}, by ${right.label}` : "";
  parts.back.disabled = parts.page === 0;
  parts.forth.disabled = parts.page === last;
}

// Left and right go through the pictures wherever the arrow keys mean nothing else and the stage is in sight.
function imageKeys(event) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step || event.defaultPrevented || event.altKey || event.ctrlKey || event.metaKey || !view.found.length) return;
  if (event.target.closest("input, select, textarea, table, .scroll, #plot")) return;
  const box = parts.stage.getBoundingClientRect();
  if (box.bottom < 0 || box.top > innerHeight) return;
  event.preventDefault();
  goTo(view.at + step);
}
