"use strict";

// Tables: a click on a heading sorts by that column, another one the other way round.
const value = (row, column) => {
  const text = row.cells[column].textContent.trim();
  const number = Number(text.replaceAll(",", "").split(" to ")[0]);
  return Number.isNaN(number) || text === "" ? text : number;
};
const compare = (a, b) =>
  typeof a === "number" && typeof b === "number" ? a - b : typeof a === "number" ? -1 : typeof b === "number" ? 1 : a.localeCompare(b);

for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const order = heading.getAttribute("aria-sort") === "descending" ? "ascending" : "descending";
      for (const other of headings) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => sign * compare(value(a, column), value(b, column)));
      table.tBodies[0].append(...rows);
    });
  });
}

// Points: pointing at one, or a touch, says what it is.
const tip = document.getElementById("tip");
const tips = JSON.parse(document.getElementById("tips").textContent);
let pointed = null;

const hide = () => {
  tip.hidden = true;
  if (pointed) pointed.classList.remove("pointed");
  pointed = null;
};
const show = (point, lines) => {
  hide();
  pointed = point;
  point.classList.add("pointed");
  tip.textContent = lines.join("\n");
  tip.hidden = false;
  const at = point.getBoundingClientRect();
  const left = Math.min(Math.max(4, at.left + at.width / 2 - tip.offsetWidth / 2), innerWidth - tip.offsetWidth - 4);
  const above = at.top - tip.offsetHeight - 6;
  tip.style.left = `${left}px`;
  tip.style.top = `${above > 4 ? above : at.bottom + 6}px`;
};
for (const [name, lines] of Object.entries(tips)) {
  document.querySelectorAll(`[id="${name}-points"] use`).forEach((point, index) => {
    point.addEventListener("pointerenter", () => show(point, lines[index]));
    point.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && hide());
  });
}
addEventListener("scroll", hide, { passive: true });
addEventListener("keydown", (event) => event.key === "Escape" && hide());
