"use strict";

// Elements are made and filled as nodes and text: nothing from a record is ever parsed as HTML.
function make(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function draw(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function dataOf(id) {
  return JSON.parse(document.getElementById(id).textContent);
}

function choice(name, options, chosen, onChange) {
  const id = `choose-${name.toLowerCase()}`, select = make("select", { id });
  options.forEach((text, index) => select.append(make("option", { value: index }, text)));
  select.value = chosen;
  select.addEventListener("change", () => onChange(Number(select.value)));
  return make("div", { class: "control" }, make("label", { for: id }, name), select);
}
