"""The page's script: tells the values of a plot to who points at it or walks along it with the arrow keys. The page is whole without it."""

SCRIPT = """"use strict";
for (const plot of document.querySelectorAll(".plot")) {
  const marks = [...plot.querySelectorAll("[data-say]")];
  if (!marks.length) continue;
  for (const mark of marks) mark.querySelector("title")?.remove();
  const tip = document.createElement("output");
  tip.className = "tip";
  tip.hidden = true;
  plot.append(tip);
  plot.tabIndex = 0;
  const rows = plot.classList.contains("bars");
  let at = -1, places = [];
  const measure = () => {
    const box = plot.getBoundingClientRect();
    places = marks.map((mark) => {
      const b = mark.getBoundingClientRect();
      return [b.left + b.width / 2 - box.left, b.top + b.height / 2 - box.top];
    });
    return box;
  };
  const hide = () => {
    if (at >= 0) marks[at].classList.remove("now");
    at = -1;
    tip.hidden = true;
  };
  const show = (index, box) => {
    if (index === at) return;
    hide();
    at = index;
    marks[at].classList.add("now");
    tip.textContent = marks[at].dataset.say;
    tip.hidden = false;
    const [x, y] = places[at];
    const above = y - tip.offsetHeight - 12;
    tip.style.left = `${Math.max(0, Math.min(box.width - tip.offsetWidth, x - tip.offsetWidth / 2))}px`;
    tip.style.top = `${above > -40 ? above : y + 14}px`;
  };
  const point = (event) => {
    const box = measure();
    let best = 0, least = Infinity;
    places.forEach(([x, y], index) => {
      const far = Math.hypot(rows ? 0 : x - event.clientX + box.left, y - event.clientY + box.top);
      if (far < least) [best, least] = [index, far];
    });
    show(best, box);
  };
  plot.addEventListener("pointermove", point);
  plot.addEventListener("pointerdown", point);
  plot.addEventListener("pointerleave", hide);
  plot.addEventListener("blur", hide);
  plot.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hide();
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    show(Math.min(marks.length - 1, Math.max(0, at + step)), measure());
  });
}
document.documentElement.dataset.ready = "";
"""
