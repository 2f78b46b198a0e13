// Sparklines: SVG paths over a fixed box, stretched to their place. The figure beside them says the same in words.

const NS = "http://www.w3.org/2000/svg";
const W = 300;
const H = 46;

function make(tag, attributes) {
  const node = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

export function spark(lines) {
  const svg = make("svg", { class: "spark", viewBox: `0 0 ${W} ${H}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  svg.append(make("path", { class: "area" }), ...lines.map((name) => make("path", { class: name })));
  return svg;
}

/** Draws series (arrays of numbers or null) into the paths that `spark` made; returns the highest value. */
export function draw(svg, series) {
  const top = Math.max(0, ...series.flat().filter((v) => v !== null));
  const paths = [...svg.children];
  // A second line that is zero all along would only hide the first.
  series.forEach((values, index) => set(paths[index + 1], index && !values.some(Boolean) ? "" : path(values, top)));
  set(paths[0], area(series[0], top));
  return top;
}

function set(node, d) {
  if (node.getAttribute("d") !== d) node.setAttribute("d", d);
}

function path(values, top) {
  const step = W / Math.max(1, values.length - 1);
  let d = "";
  let pen = false;
  values.forEach((value, i) => {
    if (value === null) {
      pen = false;
      return;
    }
    const x = (i * step).toFixed(1);
    const y = height(value, top);
    // A lone point is drawn as a short dash, or it would not be seen at all.
    d += pen ? `L${x} ${y}` : `M${x} ${y}h1.5`;
    pen = true;
  });
  return d;
}

/** The areas under the line's unbroken pieces. */
function area(values, top) {
  const step = W / Math.max(1, values.length - 1);
  let d = "";
  for (let i = 0; i < values.length; i += 1) {
    if (values[i] === null) continue;
    const x = (i * step).toFixed(1);
    if (i === 0 || values[i - 1] === null) d += `M${x} ${H}`;
    d += `L${x} ${height(values[i], top)}`;
    if (i === values.length - 1 || values[i + 1] === null) d += `L${x} ${H}Z`;
  }
  return d;
}

function height(value, top) {
  return (H - 1 - (top > 0 ? (value / top) * (H - 4) : 0)).toFixed(1);
}
