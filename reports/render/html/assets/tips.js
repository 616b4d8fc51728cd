// One box for all tips. Pointing at or focusing an anchor shows it; a click or Enter keeps it; Escape puts it away.
const tips = { box: null, anchor: null, kept: false, timer: 0 };

function startTips() {
  tips.box = document.getElementById("tip");
  tips.box.addEventListener("pointerenter", () => clearTimeout(tips.timer));
  tips.box.addEventListener("pointerleave", () => leaveTip());
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hideTip(true);
  });
  document.addEventListener("pointerdown", (event) => {
    if (tips.anchor && !tips.box.contains(event.target) && !tips.anchor.contains(event.target)) hideTip();
  });
  addEventListener("resize", () => hideTip());
}

function showTip(anchor, content, kept) {
  clearTimeout(tips.timer);
  if (tips.anchor && tips.anchor !== anchor) hideTip();
  tips.anchor = anchor;
  tips.kept = kept;
  tips.box.replaceChildren(...content);
  if (kept) {
    const close = make("button", { type: "button", class: "close", "aria-label": "Close" }, "\u00d7");
    close.addEventListener("click", () => hideTip(true));
    tips.box.prepend(close);
  }
  tips.box.hidden = false;
  tips.box.scrollTop = 0;
  anchor.setAttribute("aria-describedby", "tip");
  const at = anchor.getBoundingClientRect(), size = tips.box.getBoundingClientRect();
  const below = at.bottom + 6 + size.height <= innerHeight || at.top < size.height + 6;
  const left = Math.max(8, Math.min(at.left, document.documentElement.clientWidth - size.width - 8));
  const top = below ? Math.min(at.bottom + 6, innerHeight - size.height - 8) : at.top - 6 - size.height;
  tips.box.style.left = `${Math.round(left)}px`;
  tips.box.style.top = `${Math.round(Math.max(8, top))}px`;
}

function hideTip(refocus) {
  clearTimeout(tips.timer);
  const anchor = tips.anchor, inside = tips.box.contains(document.activeElement);
  tips.anchor = null;
  tips.kept = false;
  tips.box.hidden = true;
  if (anchor) anchor.removeAttribute("aria-describedby");
  if (anchor && refocus && inside) anchor.focus();
}

function leaveTip() {
  if (tips.kept) return;
  clearTimeout(tips.timer);
  tips.timer = setTimeout(() => hideTip(), 250);
}

// `content` is asked for when the tip is shown: there are a thousand anchors.
function addTip(anchor, content) {
  anchor.addEventListener("pointerenter", (event) => {
    if (event.pointerType !== "mouse" || tips.kept) return;
    clearTimeout(tips.timer);
    tips.timer = setTimeout(() => showTip(anchor, content(), false), 120);
  });
  anchor.addEventListener("pointerleave", leaveTip);
  anchor.addEventListener("focus", () => {
    if (anchor.matches(":focus-visible")) showTip(anchor, content(), false);
  });
  anchor.addEventListener("blur", (event) => {
    if (!tips.kept && !tips.box.contains(event.relatedTarget)) hideTip();
  });
  anchor.addEventListener("click", (event) => {
    if (event.target.closest("a")) return;
    if (tips.anchor === anchor && tips.kept) hideTip(); else showTip(anchor, content(), true);
  });
  anchor.addEventListener("keydown", (event) => {
    if (event.target !== anchor || (event.key !== "Enter" && event.key !== " ")) return;
    event.preventDefault();
    showTip(anchor, content(), true);
  });
}

// What a record says of some of its values: the values, their metrics, the run, and the way to all of it. What was
// worked out from several records is `made`.
function recordTip(title, id, keys, others, made) {
  const record = document.getElementById(id), content = [make("p", { class: "tip-title", dir: "auto" }, title)];
  if (made) content.push(make("p", { class: "tip-value" }, make("strong", {}, made), " worked out from"));
  for (const key of keys) {
    for (const one of [id, ...others]) content.push(valueLine(one, key, keys.length > 1 || others.length > 0));
  }
  const run = record.querySelector("[data-run]").cloneNode(true);
  for (const metric of new Set(keys.map((key) => key.split(".")[0]))) {
    const found = record.querySelector(`[data-metric="${CSS.escape(metric)}"]`);
    if (!found) continue;
    const facts = found.cloneNode(true);
    run.append(...[...facts.children].slice(-2)); // the settings, which are long, come last
    content.push(facts);
  }
  content.push(run);
  for (const one of [id, ...others]) {
    const name = document.getElementById(one).dataset.label;
    const link = make("a", { href: `#${one}` }, `All of the record of ${name}`);
    link.addEventListener("click", () => hideTip());
    content.push(make("p", { class: "tip-more" }, link));
  }
  return content;
}

function valueLine(id, key, named) {
  const record = document.getElementById(id);
  const row = record.querySelector(`tr[data-key="${CSS.escape(key)}"]`);
  const line = make("p", { class: "tip-value" });
  if (named) line.append(make("span", {}, `${record.dataset.label}, ${key}: `));
  if (!row) {
    line.append("no value");
    return line;
  }
  const [value, low, high] = [...row.cells].slice(1).map((cell) => cell.textContent);
  line.append(make("strong", {}, value));
  if (low) line.append(make("span", {}, ` 95% interval ${low} to ${high}`));
  return line;
}
