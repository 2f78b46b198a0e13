"use strict";
// Reads plots to who points at them, touches them or walks along them with the arrow keys. The page is whole without it.
for (const plot of document.querySelectorAll(".plot")) {
  const marks = [...plot.querySelectorAll("[data-say]")];
  if (!marks.length) continue;
  for (const mark of marks) mark.querySelector("title")?.remove();
  const tip = document.createElement("output");
  tip.className = "tip";
  tip.hidden = true;
  plot.append(tip);
  plot.tabIndex = 0;
  const middle = (mark) => { const box = mark.getBoundingClientRect(); return [box.left + box.width / 2, box.top + box.height / 2]; };
  let at = -1;
  const show = (index) => {
    hide();
    at = index;
    marks[at].classList.add("now");
    tip.textContent = marks[at].dataset.say;
    tip.hidden = false;
    const [x, y] = middle(marks[at]), box = plot.getBoundingClientRect();
    tip.style.left = `${Math.max(0, Math.min(box.width - tip.offsetWidth, x - box.left - tip.offsetWidth / 2))}px`;
    tip.style.top = `${y - box.top - tip.offsetHeight - 14}px`;
  };
  const hide = () => {
    if (at >= 0) marks[at].classList.remove("now");
    tip.hidden = true;
  };
  const point = (event) => {
    let best = 0, least = Infinity;
    marks.forEach((mark, index) => {
      const [x, y] = middle(mark);
      const far = Math.hypot(x - event.clientX, (y - event.clientY) / 2);
      if (far < least) [best, least] = [index, far];
    });
    show(best);
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
    show(Math.min(marks.length - 1, Math.max(0, at + step)));
  });
}
// Times stand in UTC; the reader's own is a hint.
for (const time of document.querySelectorAll("time[datetime]")) {
  const when = new Date(time.dateTime);
  if (!Number.isNaN(when.getTime())) time.title = when.toLocaleString();
}
document.documentElement.dataset.ready = "";
