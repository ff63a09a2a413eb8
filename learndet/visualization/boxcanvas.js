// Boxes on a picture: one file, no dependencies, the same code in JupyterLab (anywidget) and in an exported page (mount).
// Chapter nbs/07_visualization/05_box_canvas.ipynb explains it. Arrays arrive as little-endian bytes, see `ARRAYS`.
export const PALETTE = ['#0072B2', '#E69F00', '#009E73', '#D55E00', '#CC79A7', '#56B4E9', '#F0E442', '#000000']; // Okabe and Ito
export const HIDDEN = 255; // a state that is never drawn
export const MANY = 3000; // above this many outlines the renderer `auto` draws dots
const ARRAYS = {
  boxes: Float32Array,
  score: Float32Array,
  state: Uint8Array,
  level: Uint8Array,
  label: Int16Array,
  unit: Int32Array,
  gts: Float32Array,
  gt_alerts: Uint8Array,
  arrows: Float32Array,
};

// ---------------------------------------------------------------- numbers: pure functions, no page needed
export function typed(bytes, Type) {
  // DataView, ArrayBuffer or Uint8Array -> a typed array of its own
  if (!bytes) return new Type(0);
  const raw = bytes.buffer ? bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength) : bytes;
  return new Type(raw);
}

export function visibleBoxes(d, f, pane) {
  // d: arrays and n; f: {show, levels, classes, threshold} -> indices
  const {n, score, state, level, label} = d,
    out = new Int32Array(n),
    has = list => {
      const t = [];
      for (const v of list || []) t[v] = true;
      return t;
    };
  const show = has(f.show),
    levels = has(f.levels),
    classes = has(f.classes),
    labelAt = label.length > n ? pane * n : 0;
  let m = 0;
  for (let i = 0; i < n; i++) {
    const s = state.length ? state[pane * n + i] : 0;
    if (s === HIDDEN || !show[s] || (level.length && !levels[level[i]]) || (score.length && !(score[i] >= f.threshold))) continue;
    if (label.length) {
      const k = label[labelAt + i];
      if (k >= 0 && k < f.names && !classes[k]) continue;
    }
    out[m++] = i;
  }
  return out.subarray(0, m);
}

export function fit(view, size, w, h) {
  // view [cx, cy, zoom], picture [H, W], pane w x h -> {s, ox, oy}: px = x·s + ox
  const [H, W] = size,
    s = Math.min(w / W, h / H) * view[2];
  return {s, ox: w / 2 - view[0] * s, oy: h / 2 - view[1] * s};
}

export function hitTest(x, y, d, idx, t, outlines) {
  // pixels of the pane -> candidate boxes, the best first
  const {boxes} = d,
    found = [];
  for (let k = 0; k < idx.length; k++) {
    const i = idx[k],
      x1 = boxes[4 * i] * t.s + t.ox,
      y1 = boxes[4 * i + 1] * t.s + t.oy,
      x2 = boxes[4 * i + 2] * t.s + t.ox,
      y2 = boxes[4 * i + 3] * t.s + t.oy;
    const far = Math.hypot((x1 + x2) / 2 - x, (y1 + y2) / 2 - y),
      area = (x2 - x1) * (y2 - y1);
    if (far <= 7) {
      found.push([0, Math.round(far), area, i]);
      continue;
    }
    if (!outlines || x < x1 - 3 || x > x2 + 3 || y < y1 - 3 || y > y2 + 3) continue;
    const edge = Math.min(Math.abs(x - x1), Math.abs(x - x2), Math.abs(y - y1), Math.abs(y - y2));
    found.push(edge <= 3 ? [1, Math.round(edge), area, i] : [2, 0, area, i]);
  }
  found.sort((a, b) => a[0] - b[0] || a[1] - b[1] || a[2] - b[2] || a[3] - b[3]);
  return found.map(f => ({index: f[3], rank: f[0]}));
}

export function number(v) {
  // enough digits, not more
  return Number.isInteger(v)
    ? String(v)
    : Math.abs(v) >= 100
      ? v.toFixed(1)
      : Math.abs(v) >= 1e-3 || v === 0
        ? v.toFixed(3)
        : v.toExponential(2);
}

export function apart(v, limits) {
  // as many digits as it takes to tell a value from the limits it is compared with
  if (Math.abs(v) < 1e-3) return number(v);
  let n = 3;
  while (n < 7 && limits.some(t => t !== v && t.toFixed(n) === v.toFixed(n))) n++;
  return n > 3 ? v.toFixed(n) : number(v);
}

export function rgb(color) {
  return [1, 3, 5].map(k => parseInt(color.slice(k, k + 2), 16));
}
const packed = (color, alpha) => {
  const [r, g, b] = rgb(color);
  return ((alpha << 24) | (b << 16) | (g << 8) | r) >>> 0;
};
const lighter = (color, round) =>
  '#' +
  rgb(color)
    .map(c =>
      Math.round(c + (255 - c) * 0.6 * (1 - 1 / (1 + round)))
        .toString(16)
        .padStart(2, '0'),
    )
    .join('');
export const colorOf = k => (k < 8 ? PALETTE[k] : lighter(PALETTE[k % 8], k >> 3));

// ---------------------------------------------------------------- raster: outlines and dots written into pixels
const SHAPES = {
  // dots, drawn in a 5 x 5 stencil
  dot: ['.....', '.###.', '.###.', '.###.', '.....'],
  x: ['#...#', '.#.#.', '..#..', '.#.#.', '#...#'],
  plus: ['..#..', '..#..', '#####', '..#..', '..#..'],
  ring: ['.###.', '#...#', '#...#', '#...#', '.###.'],
  triangle: ['..#..', '..#..', '.###.', '.###.', '#####'],
  square: ['#####', '#####', '#####', '#####', '#####'],
  small: ['.....', '.....', '..##.', '..##.', '.....'],
};
const STENCILS = Object.fromEntries(
  Object.entries(SHAPES).map(([name, rows]) => [
    name,
    rows.flatMap((row, dy) => [...row].flatMap((c, dx) => (c === '#' ? [[dx - 2, dy - 2]] : []))),
  ]),
);

function line(px, W, H, x, y, length, down, color, dash, thick) {
  const [on, period] = dash ? [dash[0], dash[0] + dash[1]] : [1, 1];
  for (let t = 0; t < thick; t++) {
    const fixed = (down ? x : y) + t;
    if (fixed < 0 || fixed >= (down ? W : H)) continue;
    const from = down ? y : x,
      a = Math.max(0, from),
      b = Math.min((down ? H : W) - 1, from + length);
    for (let v = a; v <= b; v++) if ((v - from) % period < on) px[down ? v * W + fixed : fixed * W + v] = color;
  }
}

function stamp(px, W, H, x, y, shape, color, k) {
  for (const [dx, dy] of shape)
    for (let a = 0; a < k; a++)
      for (let b = 0; b < k; b++) {
        const u = x + dx * k + a,
          v = y + dy * k + b;
        if (u >= 0 && v >= 0 && u < W && v < H) px[v * W + u] = color;
      }
}

export function raster(px, W, H, d, pane, idx, styles, t, dpr, outlines, chosen) {
  // px: Uint32Array(W·H), cleared
  const {boxes, state, label, n} = d,
    labelAt = label.length > n ? pane * n : 0,
    k = Math.max(1, Math.round(dpr));
  const crowded = idx.length > 4 * MANY;
  styles.forEach((style, s) => {
    const shape = STENCILS[crowded ? 'small' : style.shape] || STENCILS.dot,
      dash = style.dash && style.dash.map(v => v * k),
      cache = new Map();
    for (let j = 0; j < idx.length; j++) {
      const i = idx[j];
      if ((state.length ? state[pane * n + i] : 0) !== s) continue;
      const l = label.length ? label[labelAt + i] : -1,
        faint = chosen >= 0 && l !== chosen,
        key = (style.color ? 0 : l + 1) * 2 + faint;
      let color = cache.get(key);
      if (color === undefined)
        cache.set(
          key,
          (color = packed(style.color || colorOf(Math.max(l, 0)), Math.round(255 * (style.alpha ?? 1) * (faint ? 0.25 : 1)))),
        );
      const x1 = Math.round(boxes[4 * i] * t.s + t.ox),
        y1 = Math.round(boxes[4 * i + 1] * t.s + t.oy),
        x2 = Math.round(boxes[4 * i + 2] * t.s + t.ox),
        y2 = Math.round(boxes[4 * i + 3] * t.s + t.oy);
      if (x2 < 0 || y2 < 0 || x1 >= W || y1 >= H) continue;
      if (outlines && style.kind !== 'dot') {
        const w = (style.width || 1) * k;
        line(px, W, H, x1, y1, x2 - x1, false, color, dash, w);
        line(px, W, H, x1, y2 - w + 1, x2 - x1, false, color, dash, w);
        line(px, W, H, x1, y1, y2 - y1, true, color, dash, w);
        line(px, W, H, x2 - w + 1, y1, y2 - y1, true, color, dash, w);
      }
      if (!outlines || style.kind !== 'outline') stamp(px, W, H, (x1 + x2) >> 1, (y1 + y2) >> 1, shape, color, k);
    }
  });
}

// ---------------------------------------------------------------- pieces of the page
const STYLE = `
.ld{font:13px/1.45 system-ui,sans-serif;
  color:var(--jp-ui-font-color1,#222);background:var(--jp-layout-color0,#fff);padding:6px;outline-offset:-2px;
  max-width:1100px;box-sizing:border-box}
.ld [hidden]{display:none!important}.ld *{box-sizing:border-box}
.ld h2{font-size:14px;margin:0 0 4px}
.ld .bar{display:flex;flex-wrap:wrap;gap:4px 14px;align-items:center;margin:3px 0}
.ld label{display:inline-flex;gap:5px;align-items:center}
.ld input[type=range]{width:120px}
.ld input[type=text]{width:120px;font:inherit}
.ld output{min-width:38px;font-variant-numeric:tabular-nums}
.ld button{font:inherit;padding:1px 8px}
.ld .main{display:flex;flex-wrap:wrap;gap:10px;align-items:flex-start}
.ld .panes{display:flex;gap:8px;flex:2 1 420px;min-width:0}
.ld .pane{position:relative;flex:1 1 0;min-width:0}
.ld .pane>div{font-weight:600}
.ld .stack{position:relative;overflow:hidden;border:1px solid #8886}
.ld canvas{position:absolute;left:0;top:0;width:100%;height:100%}
.ld .panels{flex:1 1 250px;min-width:0;display:flex;flex-direction:column;gap:8px}.ld .panels.wide{display:grid;grid-template-columns:repeat(auto-fill,minmax(270px,1fr));align-items:start}
.ld pre{white-space:pre-wrap;margin:0;font:12px/1.4 ui-monospace,monospace}
.ld table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:12px}
.ld td,.ld th{padding:1px 7px;text-align:right;border-bottom:1px solid #8883}
.ld td:first-child,.ld th:first-child{text-align:left}
.ld tr[tabindex]{cursor:pointer}
.ld tr[tabindex]:hover{background:#8882}
.ld tr.mark{background:#56B4E944;font-weight:600}
.ld .alert{border-left:4px solid #D55E00;padding-left:6px}
.ld .card{position:absolute;pointer-events:none;background:#222e;color:#fff;
  padding:3px 7px;border-radius:4px;font-size:12px;white-space:pre;z-index:3}
.ld .sr{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
.ld .key{display:inline-block;vertical-align:-2px}
.ld canvas.key{background:#fff}
.ld svg text{font:11px system-ui,sans-serif;fill:currentColor}
.ld .caption{font-weight:600}
.ld .table{max-height:260px;overflow:auto}`;

function el(tag, attrs = {}, ...children) {
  const node = document.createElement(tag);
  if (['input', 'select', 'button'].includes(tag) || 'tabindex' in attrs)
    attrs = {...attrs, 'data-lm-suppress-shortcuts': 'true'}; // JupyterLab asks the focused element first
  for (const [k, v] of Object.entries(attrs)) {
    if (k.startsWith('on')) node.addEventListener(k.slice(2), v);
    else if (v === true) node.setAttribute(k, '');
    else if (v !== false && v != null) node.setAttribute(k, v);
  }
  node.append(...children.filter(c => c != null));
  return node;
}
function svg(tag, attrs = {}, ...children) {
  const node = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [k, v] of Object.entries(attrs)) if (v != null) node.setAttribute(k, v);
  node.append(...children);
  return node;
}

function keyOf(style) {
  // the legend's little picture of a state: line with its dash, dot with its shape
  const canvas = el('canvas', {
    class: 'key',
    width: 26,
    height: 13,
    style: 'position:static;width:26px;height:13px',
    'aria-hidden': 'true',
  });
  const ctx = canvas.getContext('2d');
  ctx.fillStyle = ctx.strokeStyle = style.color || '#777';
  if (style.kind !== 'dot') {
    ctx.lineWidth = style.width || 1;
    ctx.setLineDash(style.dash || []);
    ctx.strokeRect(1.5, 1.5, 23, 10);
  }
  if (style.kind !== 'outline') for (const [dx, dy] of STENCILS[style.shape] || STENCILS.dot) ctx.fillRect(12 + dx, 6 + dy, 1, 1);
  return canvas;
}

function control(c, value, locked, change) {
  // one of Python's controls -> {node, refresh(value)}
  const attrs = {disabled: locked, 'data-name': c.name, title: locked ? 'needs a running kernel' : c.help};
  if (c.kind === 'button') {
    let presses = value || 0;
    const node = el('button', {...attrs, onclick: () => change((presses += 1))}, c.label);
    const limits = now => node.replaceChildren(now.label); // what it does next
    const refresh = v => {
      presses = v || 0; // Python may start to count anew
    };
    return {node, limits, refresh};
  }
  if (c.kind === 'toggle') {
    const box = el('input', {...attrs, type: 'checkbox', onchange: () => change(box.checked)});
    return {
      node: el('label', {}, box, c.label),
      refresh: v => {
        box.checked = v;
      },
    };
  }
  if (c.kind === 'choice') {
    const box = el('select', {...attrs, onchange: () => change(box.value)}, ...c.options.map(o => el('option', {value: o}, o)));
    return {
      node: el('label', {}, c.label, box),
      refresh: v => {
        box.value = v;
      },
    };
  }
  if (c.kind === 'numbers') {
    const read = () => {
      const v = text.value
        .split(/[\s,]+/)
        .filter(Boolean)
        .map(Number);
      if (v.length && v.every(Number.isFinite)) change(v);
    };
    const text = el('input', {
      ...attrs,
      type: 'text',
      onchange: read,
      onkeydown: e => {
        if (e.key === 'Enter') read();
      },
    });
    const row = el('span', {class: 'bar'});
    return {
      node: el('label', {}, c.label, text, row),
      refresh: v => {
        text.value = v.map(x => +x.toPrecision(4)).join(', ');
        if (row.childElementCount !== v.length)
          row.replaceChildren(
            ...v.map((_, k) =>
              el('input', {
                ...attrs,
                'data-name': `${c.name}.${k}`,
                'aria-label': `${c.label} ${k + 1}`,
                type: 'range',
                min: Math.log2(c.min),
                max: Math.log2(c.max),
                step: 0.05,
                style: 'width:70px',
                oninput: e => change(row.values.map((x, j) => (j === k ? +(2 ** e.target.value).toPrecision(4) : x))),
              }),
            ),
          );
        row.values = v;
        [...row.children].forEach((r, k) => {
          if (document.activeElement !== r) r.value = Math.log2(v[k]);
        });
      },
    };
  }
  const range = el('input', {
      ...attrs,
      type: 'range',
      min: c.min,
      max: c.max,
      step: c.step,
      oninput: () => {
        show(+range.value);
        change(+range.value);
      },
    }),
    out = el('output');
  const show = v => {
    out.textContent = c.words ? (c.words[v] ?? c.words.at(-1)) : +(+v).toFixed(4);
    range.setAttribute('aria-valuetext', out.textContent);
  };
  const limits = now => {
    c = now;
    Object.assign(range, {min: c.min, max: c.max, step: c.step});
  };
  return {
    node: el('label', {}, c.label, range, out),
    limits,
    refresh: v => {
      if (+range.value !== v) range.value = v;
      show(v);
    },
  };
}

export function plot(p, width = 300, height = 150) {
  // {series: [{kind, x, y, name, color, dash}], xlabel, ylabel, rules, log}
  const L = 54,
    B = 30,
    T = 8,
    R = 8,
    all = key => p.series.flatMap(s => s[key]),
    X = v => (p.log ? Math.log2(Math.max(v, 1e-9)) : v);
  const [xs, ys] = [all('x').map(X), all('y').concat(p.series.some(s => s.kind === 'bar') ? [0] : [])].map(v =>
    v.filter(Number.isFinite),
  );
  const bounds = (v, given, pad) => given || (v.length ? [Math.min(...v) - pad, Math.max(...v) + pad] : [0, 1]);
  const bar = p.series.find(s => s.kind === 'bar'),
    pad = bar && bar.x.length > 1 ? (bar.x[1] - bar.x[0]) / 2 : bar ? 0.5 : 0;
  let [x0, x1] = p.xlim ? p.xlim.map(X) : bounds(xs, null, pad),
    [y0, y1] = bounds(ys, p.ylim, 0);
  if (x1 <= x0) [x0, x1] = [x0 - 0.5, x1 + 0.5];
  if (y1 <= y0) y1 = y0 + 1;
  const px = x => L + ((X(x) - x0) / (x1 - x0)) * (width - L - R),
    py = y => height - B - ((y - y0) / (y1 - y0)) * (height - B - T);
  const node = svg('svg', {
    viewBox: `0 0 ${width} ${height}`,
    width: '100%',
    role: 'img',
    'aria-label': `${p.title}: ${p.ylabel || ''} over ${p.xlabel || ''}`,
    style: `max-width:${width * 1.4}px`,
  });
  node.append(svg('path', {d: `M${L} ${T}V${height - B}H${width - R}`, stroke: 'currentColor', fill: 'none', opacity: 0.5}));
  const middles = bar && bar.x.length < 12 ? bar.x : null; // few bars: a number under each
  for (const v of middles || [])
    node.append(svg('text', {x: px(v), y: height - B + 12, 'text-anchor': 'middle'}, document.createTextNode(tick(v))));
  for (const f of [0, 0.5, 1]) {
    const xv = x0 + f * (x1 - x0),
      yv = y0 + f * (y1 - y0);
    if (!middles)
      node.append(
        svg(
          'text',
          {x: L + f * (width - L - R), y: height - B + 12, 'text-anchor': ['start', 'middle', 'end'][f * 2]},
          document.createTextNode(tick(p.log ? 2 ** xv : xv)),
        ),
      );
    node.append(svg('text', {x: L - 4, y: py(yv) + 4, 'text-anchor': 'end'}, document.createTextNode(tick(yv))));
  }
  node.append(
    svg('text', {x: (L + width) / 2, y: height - 4, 'text-anchor': 'middle'}, document.createTextNode(p.xlabel || '')),
    svg(
      'text',
      {x: 10, y: (height - B + T) / 2, 'text-anchor': 'middle', transform: `rotate(-90 10 ${(height - B + T) / 2})`},
      document.createTextNode(p.ylabel || ''),
    ),
  );
  for (const r of p.rules || [])
    node.append(
      svg('line', {
        x1: r.x != null ? px(r.x) : L,
        x2: r.x != null ? px(r.x) : width - R,
        y1: r.y != null ? py(r.y) : T,
        y2: r.y != null ? py(r.y) : height - B,
        stroke: '#D55E00',
        'stroke-dasharray': '4 3',
      }),
    );
  p.series.forEach((s, k) => {
    const color = s.color || colorOf(k),
      pts = s.x.map((x, i) => [px(x), py(s.y[i])]).filter(q => q.every(Number.isFinite));
    if (s.kind === 'bar')
      for (const [x, y] of pts) {
        const w = Math.max(1, ((width - L - R) / ((x1 - x0) / (2 * pad || 1))) * 0.85);
        node.append(svg('rect', {x: x - w / 2, y, width: w, height: Math.max(0, py(0) - y), fill: color}));
      }
    else if (s.kind === 'points')
      for (const [x, y] of pts)
        node.append(
          k % 2
            ? svg('path', {d: `M${x - 3} ${y - 3}l6 6m0-6l-6 6`, stroke: color, 'stroke-width': 1.6})
            : svg('circle', {cx: x, cy: y, r: s.size || 2.5, fill: color}),
        );
    else
      node.append(
        svg('polyline', {
          points: pts.map(q => q.map(v => v.toFixed(1)).join()).join(' '),
          fill: 'none',
          stroke: color,
          'stroke-width': 1.6,
          'stroke-dasharray': s.dash || null,
        }),
      );
    if (s.name)
      node.append(
        svg(
          'text',
          {x: width - R - 2, y: T + 10 + 13 * k, 'text-anchor': 'end'},
          svg('tspan', {style: `fill:${color}`}, document.createTextNode(s.kind === 'points' ? (k % 2 ? '× ' : '● ') : s.dash ? '╌ ' : '— ')),
          document.createTextNode(s.name),
        ),
      );
  });
  return node;
}
const tick = v => (Math.abs(v) >= 10000 ? `${+(v / 1000).toFixed(0)}k` : String(+v.toPrecision(3)));

function panel(p, locked, select, clicked) {
  // one thing beside the picture: {title, text | alert | rows | series}
  const node = el('section', {class: p.alert != null ? 'alert' : null, 'data-panel': p.title});
  if (p.title) node.append(el('h2', {}, p.title));
  if (p.text != null || p.alert != null) node.append(el('pre', {role: p.alert != null ? 'alert' : null}, p.text ?? p.alert));
  if (p.src) node.append(el('img', {src: p.src, alt: p.alt, style: 'max-width:100%;image-rendering:pixelated'}));
  if (p.rows)
    node.append(
      el(
        'table',
        {},
        el('thead', {}, el('tr', {}, ...(p.columns || []).map(c => (c ? el('th', {scope: 'col'}, c) : el('td'))))),
        el(
          'tbody',
          {},
          ...p.rows.map((row, r) => {
            const go = col => {
                if (p.select) select(p.select, row[0]);
                clicked([p.title, r, col]);
              },
              live = p.select || (p.clickable && !locked);
            return el(
              'tr',
              {
                class: r === p.mark ? 'mark' : null,
                tabindex: live ? 0 : null,
                'data-key': `${p.title}/${r}`,
                onkeydown: e => {
                  if (live && e.key === 'Enter') {
                    go(0);
                    e.stopPropagation();
                  }
                },
              },
              ...row.map((v, col) =>
                el(
                  'td',
                  {
                    onclick: () => {
                      if (live) go(col);
                    },
                  },
                  typeof v === 'number' ? number(v) : String(v),
                ),
              ),
            );
          }),
        ),
      ),
    );
  if (p.series) node.append(plot(p));
  return node;
}

// ---------------------------------------------------------------- the view
export function render({model, el: host}) {
  const get = k => model.get(k),
    put = changes => {
      for (const [k, v] of Object.entries(changes)) model.set(k, v);
      model.save_changes();
    };
  const locked = !!get('frozen'),
    root = el('div', {
      class: 'ld',
      tabindex: 0,
      role: 'group',
      'aria-label': `${get('title')}: boxes on a picture; arrow keys step through boxes, brackets through objects`,
    });
  const controls = el('div', {class: 'bar'}),
    scenes = el('div', {class: 'bar'}),
    panes = el('div', {class: 'panes'}),
    panels = el('div', {class: 'panels'}),
    filters = el('div', {class: 'bar'});
  const live = el('div', {class: 'sr', 'aria-live': 'polite'}),
    table = el('div', {class: 'table'}),
    card = el('div', {class: 'card', hidden: true}),
    note = el('div', {class: 'alert', role: 'alert', hidden: true});
  root.append(el('style', {}, STYLE), controls, note, scenes, filters, el('div', {class: 'main'}, panes, panels), table, live);
  host.append(root);
  let d = {n: 0},
    picture = null,
    stacks = [],
    inputs = {},
    cycle = {key: '', at: 0},
    lastDraw = {},
    hovered = -1,
    queued = new Set(),
    size = [1, 1],
    gone = false;
  const born = performance.now();

  const load = () => {
    for (const [k, Type] of Object.entries(ARRAYS)) d[k] = typed(get(k), Type);
    d.n = d.boxes.length / 4;
    d.g = d.gts.length / 4;
    size = get('size');
  };
  const filter = () => ({
    show: get('show'),
    levels: get('levels'),
    classes: get('classes'),
    threshold: get('threshold'),
    names: get('names').length,
  });
  const viewNow = () => (get('view').length === 3 ? get('view') : [size[1] / 2, size[0] / 2, 1]);
  const name = k => get('names')[k] ?? String(k);

  function layout() {
    const titles = get('panes');
    stacks = titles.map((title, p) => {
      const base = el('canvas', {'aria-hidden': 'true'}),
        over = el('canvas', {'aria-hidden': 'true'}),
        stack = el('div', {class: 'stack', 'data-pane': p}, base, over);
      const node = el('div', {class: 'pane'}, title ? el('div', {}, title) : null, stack);
      return {p, base, over, stack, node, idx: new Int32Array(0), outlines: true};
    });
    panes.replaceChildren(...stacks.map(s => s.node));
    stacks.forEach(attach);
    panes.hidden = !get('image').byteLength && !d.n && !d.g;
    panels.classList.toggle('wide', panes.hidden); // without a picture, panels stand beside each other
  }

  function fitted(s) {
    const w = Math.max(40, s.node.clientWidth || 400),
      h = Math.min(Math.round((w * size[0]) / size[1]), 620);
    s.stack.style.height = `${h}px`;
    const dpr = globalThis.devicePixelRatio || 1,
      W = Math.round((w - 2) * dpr),
      H = Math.round((h - 2) * dpr);
    for (const c of [s.base, s.over])
      if (c.width !== W || c.height !== H) {
        c.width = W;
        c.height = H;
        s.buffer = null;
      }
    return {W, H, dpr, t: fit(viewNow(), size, W, H)};
  }

  function drawBoxes() {
    const f = filter(),
      styles = get('styles'),
      began = performance.now();
    for (const s of stacks) {
      const {W, H, dpr, t} = fitted(s),
        ctx = s.base.getContext('2d');
      s.t = t;
      s.dpr = dpr;
      s.idx = visibleBoxes(d, f, s.p);
      let wanted = 0;
      for (const i of s.idx) if ((styles[d.state.length ? d.state[s.p * d.n + i] : 0] || {}).kind !== 'dot') wanted++;
      s.outlines = get('renderer') === 'raster' || (get('renderer') === 'auto' && wanted <= MANY);
      ctx.globalAlpha = 1;
      ctx.fillStyle = '#fff';
      ctx.fillRect(0, 0, W, H);
      if (picture) {
        ctx.globalAlpha = get('fade');
        ctx.drawImage(picture, t.ox, t.oy, size[1] * t.s, size[0] * t.s);
        ctx.globalAlpha = 1;
      }
      if (!s.buffer) {
        s.buffer = new ImageData(W, H);
        s.layer = new OffscreenCanvas(W, H);
        s.px = new Uint32Array(s.buffer.data.buffer);
      }
      s.px.fill(0);
      raster(s.px, W, H, d, s.p, s.idx, styles, t, dpr, s.outlines, get('selected_gt'));
      const layer = s.layer.getContext('2d');
      layer.putImageData(s.buffer, 0, 0);
      ctx.drawImage(s.layer, 0, 0);
    }
    const now = performance.now();
    lastDraw = {ms: now - began, at: now, count: (lastDraw.count || 0) + 1, first: lastDraw.first ?? now - born};
    root.dataset.draws = lastDraw.count;
    root.dataset.seq = get('seq');
    root.dataset.visible = stacks.map(s => s.idx.length).join();
  }

  function tag(ctx, x, y, text, color, dpr) {
    ctx.font = `${11 * dpr}px system-ui,sans-serif`;
    const w = ctx.measureText(text).width + 6 * dpr,
      h = 14 * dpr,
      top = y >= h ? y - h : y,
      [r, g, b] = rgb(color);
    ctx.fillStyle = color;
    ctx.fillRect(x, top, w, h);
    ctx.fillStyle = r * 0.3 + g * 0.59 + b * 0.11 > 140 ? '#000' : '#fff';
    ctx.fillText(text, x + 3 * dpr, top + 10.5 * dpr);
  }

  function drawOver() {
    const picked = get('selected_prior'),
      object = get('selected_gt');
    for (const s of stacks) {
      const ctx = s.over.getContext('2d'),
        {t, dpr} = s;
      if (!t) continue;
      const box = (a, i) => [
        a[4 * i] * t.s + t.ox,
        a[4 * i + 1] * t.s + t.oy,
        (a[4 * i + 2] - a[4 * i]) * t.s,
        (a[4 * i + 3] - a[4 * i + 1]) * t.s,
      ];
      ctx.clearRect(0, 0, s.over.width, s.over.height);
      for (let i = 0; i < d.g; i++) {
        const r = box(d.gts, i),
          alarm = d.gt_alerts[s.p * d.g + i] ?? d.gt_alerts[i],
          color = colorOf(i);
        ctx.setLineDash(alarm ? [6 * dpr, 4 * dpr] : []);
        ctx.lineWidth = (i === object ? 6 : 4) * dpr;
        ctx.strokeStyle = '#fff';
        ctx.strokeRect(...r);
        ctx.lineWidth = (i === object ? 3.5 : 2) * dpr;
        ctx.strokeStyle = color;
        ctx.strokeRect(...r);
        tag(ctx, r[0], r[1], (get('gt_names')[i] ?? String(i)) + (alarm ? '!' : ''), color, dpr);
        if (get('drag').includes(i))
          for (const [cx, cy] of [
            [r[0], r[1]],
            [r[0] + r[2], r[1]],
            [r[0], r[1] + r[3]],
            [r[0] + r[2], r[1] + r[3]],
          ]) {
            ctx.fillStyle = color;
            ctx.fillRect(cx - 4 * dpr, cy - 4 * dpr, 8 * dpr, 8 * dpr);
          }
      }
      ctx.setLineDash([]);
      for (let k = 0; k < d.arrows.length; k += 4) {
        const [x1, y1, x2, y2] = [0, 1, 2, 3].map(j => d.arrows[k + j] * t.s + (j % 2 ? t.oy : t.ox)),
          a = Math.atan2(y2 - y1, x2 - x1);
        ctx.strokeStyle = ctx.fillStyle = '#000';
        ctx.lineWidth = 1.5 * dpr;
        ctx.beginPath();
        ctx.moveTo(x1, y1);
        ctx.lineTo(x2, y2);
        ctx.stroke();
        ctx.beginPath();
        ctx.moveTo(x2, y2);
        for (const turn of [2.7, -2.7]) ctx.lineTo(x2 + 8 * dpr * Math.cos(a + turn), y2 + 8 * dpr * Math.sin(a + turn));
        ctx.fill();
      }
      if (hovered >= 0 && hovered < d.n) {
        const mates = d.unit.length ? [...d.unit.keys()].filter(i => d.unit[i] === d.unit[hovered]) : [hovered];
        mates.forEach((i, k) => {
          ctx.lineWidth = 2 * dpr;
          ctx.strokeStyle = mates.length > 1 ? colorOf(k) : '#000';
          ctx.setLineDash(mates.length > 1 ? [] : [3 * dpr, 2 * dpr]);
          ctx.strokeRect(...box(d.boxes, i));
        });
      }
      ctx.setLineDash([]);
      if (picked >= 0 && picked < d.n) {
        const r = box(d.boxes, picked),
          [cx, cy] = [r[0] + r[2] / 2, r[1] + r[3] / 2];
        ctx.lineWidth = 5 * dpr;
        ctx.strokeStyle = '#fff';
        ctx.strokeRect(...r);
        ctx.lineWidth = 2.5 * dpr;
        ctx.strokeStyle = '#000';
        ctx.strokeRect(...r);
        ctx.beginPath();
        ctx.moveTo(cx - 7 * dpr, cy);
        ctx.lineTo(cx + 7 * dpr, cy);
        ctx.moveTo(cx, cy - 7 * dpr);
        ctx.lineTo(cx, cy + 7 * dpr);
        ctx.stroke();
      }
    }
  }

  function words(i, pane = 0) {
    const b = [...d.boxes.subarray(4 * i, 4 * i + 4)],
      styles = get('styles'),
      l = d.label.length ? d.label[(d.label.length > d.n ? pane * d.n : 0) + i] : -1;
    const parts = [`${get('noun')} ${i}: ${(b[2] - b[0]).toFixed(0)} x ${(b[3] - b[1]).toFixed(0)}`];
    if (d.level.length) parts.push(get('level_names')[d.level[i]] ?? `level ${d.level[i]}`);
    if (d.state.length) parts.push((styles[d.state[pane * d.n + i]] || {name: 'hidden'}).name);
    if (l >= 0) parts.push(`${get('label_noun')} ${name(l)}`);
    const limits = [get('threshold'), ...Object.values(get('params'))].filter(Number.isFinite).map(Math.fround);
    if (d.score.length) parts.push(`${get('score_name')} ${apart(d.score[i], limits)}`);
    return parts.join(', ');
  }

  function say() {
    const p = get('selected_prior'),
      g = get('selected_gt'),
      count = stacks.map(s => s.idx.length).join(' and ');
    live.textContent =
      `${count} of ${d.n} boxes visible.` +
      (g >= 0 && g < d.g ? ` Object ${get('gt_names')[g] ?? g} selected.` : '') +
      (p >= 0 && p < d.n ? ` ${words(p)} selected.` : hovered >= 0 ? ` ${words(hovered)}.` : '');
  }

  const shapeOf = controls => JSON.stringify(controls.map(c => [c.name, c.kind, c.options]));
  let drawn = '';
  function drawControls() {
    // new limits of a slider leave it in place, so that one may be held while they change
    if (drawn === shapeOf(get('controls'))) {
      for (const c of get('controls')) inputs[c.name].limits?.(c);
      return refreshControls();
    }
    drawn = shapeOf(get('controls'));
    inputs = Object.fromEntries(
      get('controls').map(c => [
        c.name,
        control(c, get('params')[c.name], locked, v => put({params: {...get('params'), [c.name]: v}})),
      ]),
    );
    controls.replaceChildren(...Object.values(inputs).map(i => i.node));
    if (locked && controls.childElementCount) controls.append(el('small', {}, 'these need a running kernel'));
    refreshControls();
  }
  const refreshControls = () => {
    for (const [k, input] of Object.entries(inputs)) if (get('params')[k] !== undefined) input.refresh(get('params')[k]);
  };

  let ticks = [],
    limit = null;
  function drawFilters() {
    // made when the choices change; dragging a slider must not replace it
    ((ticks = []), (limit = null));
    const boxesFor = (key, items, picture) =>
      items.map((text, k) => {
        const box = el('input', {
            type: 'checkbox',
            'data-filter': `${key}.${k}`,
            onchange: () => put({[key]: box.checked ? [...get(key), k].sort((a, b) => a - b) : get(key).filter(v => v !== k)}),
          }),
          word = el('span', {}, text);
        ticks.push({key, k, box, word, text});
        return el('label', {}, box, picture ? picture(k) : null, word);
      });
    const [low, high] = get('score_range'),
      few = list => list.length > 1 && list.length <= 12;
    const nodes = [
      ...(d.n
        ? boxesFor(
            'show',
            get('styles').map(s => s.name),
            k => keyOf(get('styles')[k]),
          )
        : []),
      ...(few(get('level_names')) ? boxesFor('levels', get('level_names')) : []),
      ...(few(get('names')) && d.label.length
        ? boxesFor('classes', get('names'), k =>
            el('span', {class: 'key', style: `width:10px;height:10px;background:${colorOf(k)}`}),
          )
        : []),
    ];
    if (d.score.length && high > low) {
      limit = {
        out: el('output'),
        range: el('input', {
          type: 'range',
          min: low,
          max: high,
          step: (high - low) / 100,
          'data-filter': 'threshold',
          oninput: () => put({threshold: +limit.range.value}),
        }),
      };
      nodes.push(el('label', {}, `${get('score_name')} ≥`, limit.range, limit.out));
    }
    if (!panes.hidden)
      nodes.push(
        el(
          'span',
          {},
          ...[
            ['+', 'zoom in', 1.25],
            ['−', 'zoom out', 0.8],
            ['⟲', 'whole picture', 0],
          ].map(([text, what, by]) => el('button', {'aria-label': what, onclick: () => zoom(by)}, text)),
        ),
      );
    if (d.n)
      nodes.push(
        el(
          'button',
          {
            'data-filter': 'table',
            onclick: () => {
              if (table.childElementCount) table.replaceChildren();
              else drawTable();
            },
          },
          'Table',
        ),
      );
    filters.replaceChildren(...nodes);
  }
  function refreshFilters() {
    const count = s =>
      stacks
        .map(st => {
          if (!d.state.length) return d.n;
          let n = 0;
          for (let i = 0; i < d.n; i++) n += d.state[st.p * d.n + i] === s;
          return n;
        })
        .join(' | ');
    for (const {key, k, box, word, text} of ticks) {
      box.checked = get(key).includes(k);
      if (key === 'show') word.textContent = `${text} (${count(k)})`;
    }
    if (limit) {
      limit.out.textContent = number(get('threshold'));
      if (document.activeElement !== limit.range) limit.range.value = get('threshold');
    }
    if (table.childElementCount) drawTable();
  }

  function drawTable() {
    const rows = [...stacks[0].idx.subarray(0, 200)],
      p = {
        title: '',
        columns: [get('noun'), 'x1', 'y1', 'x2', 'y2', 'what'],
        select: 'prior',
        rows: rows.map(i => [
          i,
          ...[...d.boxes.subarray(4 * i, 4 * i + 4)].map(v => v.toFixed(1)),
          words(i).split(', ').slice(1).join(', '),
        ]),
      };
    table.replaceChildren(panel(p, false, select, () => {}));
  }

  function drawPanels() {
    const busy = root.contains(document.activeElement) ? document.activeElement.dataset.key : null,
      picked = get('selected_prior'),
      object = get('selected_gt');
    const told = [get('notes')[picked], get('gt_notes')[object]].filter(Boolean).map(text => ({title: 'Why', text}));
    panels.replaceChildren(
      ...[...told, ...get('panels')].map(p =>
        panel(p, locked, select, v => put({clicked: [...v, (get('clicked')[3] || 0) + 1]})),
      ),
    );
    panels.hidden = !panels.childElementCount;
    if (busy) panels.querySelector(`[data-key="${CSS.escape(busy)}"]`)?.focus();
  }

  function drawScenes() {
    const all = get('scenes'),
      k = get('scene');
    scenes.hidden = !all.length;
    if (!all.length) return;
    const go = to => {
      if (to >= 0 && to < all.length) put({scene: to});
    };
    scenes.replaceChildren(
      el('button', {disabled: k <= 0, 'data-scene': 'prev', onclick: () => go(get('scene') - 1)}, '◀ Prev'),
      el('button', {disabled: k >= all.length - 1, 'data-scene': 'next', onclick: () => go(get('scene') + 1)}, 'Next ▶'),
      el(
        'span',
        {class: 'caption', 'aria-live': 'polite'},
        k < 0 ? `${all.length} scenes` : `${k + 1}/${all.length} ${all[k][0]}`,
      ),
    );
  }
  function applyScene() {
    const scene = get('scenes')[get('scene')];
    if (!scene) return;
    const {params, ...rest} = scene[1];
    put(params ? {...rest, params: {...get('params'), ...params}} : rest);
  }

  // ------------------------------------------------------------ acting
  const select = (what, index) => put(what === 'gt' ? {selected_gt: index} : {selected_prior: index});
  const clampView = ([x, y, z]) => {
    z = Math.min(64, Math.max(0.2, z));
    return [x, y, z];
  };
  function zoom(by, x, y) {
    if (!by) return put({view: []});
    const [cx, cy, z] = viewNow(),
      [px, py] = [x ?? cx, y ?? cy],
      k = Math.min(64, Math.max(0.2, z * by)) / z;
    put({view: clampView([px + (cx - px) / k, py + (cy - py) / k, z * k])});
  }
  const at = (s, e) => {
    const r = s.base.getBoundingClientRect(),
      x = (e.clientX - r.left) * s.dpr,
      y = (e.clientY - r.top) * s.dpr;
    return {x, y, ix: (x - s.t.ox) / s.t.s, iy: (y - s.t.oy) / s.t.s};
  };

  function gtAt(s, q) {
    // the object whose edge, tag or inside is here, the smallest first
    let best = null;
    for (let i = 0; i < d.g; i++) {
      const [x1, y1, x2, y2] = [0, 1, 2, 3].map(j => d.gts[4 * i + j] * s.t.s + (j % 2 ? s.t.oy : s.t.ox)),
        tol = 4 * s.dpr;
      if (q.x < x1 - tol || q.x > x2 + tol || q.y < y1 - 15 * s.dpr || q.y > y2 + tol) continue;
      const edge =
        q.y < y1
          ? q.x < x1 + 24 * s.dpr
            ? 0
            : 99
          : Math.min(Math.abs(q.x - x1), Math.abs(q.x - x2), Math.abs(q.y - y1), Math.abs(q.y - y2));
      if (q.y < y1 - tol && edge) continue;
      const found = {
        i,
        edge: edge <= tol,
        area: (x2 - x1) * (y2 - y1),
        left: Math.abs(q.x - x1) < 9 * s.dpr,
        right: Math.abs(q.x - x2) < 9 * s.dpr,
        top: Math.abs(q.y - y1) < 9 * s.dpr,
        bottom: Math.abs(q.y - y2) < 9 * s.dpr,
      };
      if (!best || found.edge > best.edge || (found.edge === best.edge && found.area < best.area)) best = found;
    }
    return best;
  }

  function click(s, q) {
    const found = hitTest(
        q.x / s.dpr,
        q.y / s.dpr,
        d,
        s.idx,
        {s: s.t.s / s.dpr, ox: s.t.ox / s.dpr, oy: s.t.oy / s.dpr},
        s.outlines,
      ),
      object = gtAt(s, q);
    if (found.length && found[0].rank === 0) {
      // the next of those that share this centre, on every click
      const near = found.filter(c => c.rank === 0),
        key = near.map(c => c.index).join();
      cycle = {key, at: cycle.key === key ? (cycle.at + 1) % near.length : 0};
      return select('prior', near[cycle.at].index);
    }
    if (object?.edge) return select('gt', object.i);
    if (found.length && found[0].rank === 1) return select('prior', found[0].index);
    if (object) return select('gt', object.i);
    if (found.length) return select('prior', found[0].index);
    put({selected_prior: -1, selected_gt: -1});
  }

  function attach(s) {
    let start = null;
    s.stack.addEventListener('pointerdown', e => {
      root.focus({preventScroll: true});
      const q = at(s, e),
        object = gtAt(s, q),
        grip = object && get('drag').includes(object.i) ? object : null;
      start = {...q, view: viewNow(), moved: false, grip, box: grip && [...d.gts.subarray(4 * grip.i, 4 * grip.i + 4)]};
      s.stack.setPointerCapture(e.pointerId);
    });
    s.stack.addEventListener('pointermove', e => {
      const q = at(s, e);
      if (!start) return hover(s, q, e);
      if (!start.moved && Math.hypot(q.x - start.x, q.y - start.y) < 4 * s.dpr) return;
      start.moved = true;
      card.hidden = true;
      const [dx, dy] = [(q.x - start.x) / s.t.s, (q.y - start.y) / s.t.s];
      if (!start.grip) return put({view: [start.view[0] - dx, start.view[1] - dy, start.view[2]]});
      const g = start.grip,
        sides = [g.left, g.top, g.right, g.bottom],
        any = sides.some(Boolean),
        next = new Float32Array(d.gts);
      [dx, dy, dx, dy].forEach((by, j) => {
        if (!any || sides[j]) next[4 * g.i + j] = start.box[j] + by;
      });
      for (const j of [0, 1]) if (next[4 * g.i + j + 2] < next[4 * g.i + j] + 1) return;
      put({gts: new DataView(next.buffer)});
    });
    s.stack.addEventListener('pointerup', e => {
      if (start && !start.moved) click(s, at(s, e));
      start = null;
    });
    s.stack.addEventListener('pointerleave', () => {
      if (hovered >= 0) put({hovered: -1});
      card.hidden = true;
    });
    s.stack.addEventListener(
      'wheel',
      e => {
        if (!e.ctrlKey && !root.contains(document.activeElement)) return;
        e.preventDefault();
        const q = at(s, e);
        zoom(e.deltaY < 0 ? 1.15 : 1 / 1.15, q.ix, q.iy);
      },
      {passive: false},
    );
  }

  function hover(s, q, e) {
    const found = hitTest(
        q.x / s.dpr,
        q.y / s.dpr,
        d,
        s.idx,
        {s: s.t.s / s.dpr, ox: s.t.ox / s.dpr, oy: s.t.oy / s.dpr},
        s.outlines,
      ).filter(c => c.rank < 2),
      object = gtAt(s, q),
      next = found.length ? found[0].index : -1;
    if (next !== hovered) put({hovered: next});
    card.hidden = hovered < 0 && !object;
    if (card.hidden) return;
    const mates = hovered >= 0 && d.unit.length ? d.unit.reduce((n, u) => n + (u === d.unit[hovered]), 0) : 1,
      x = e.clientX - s.stack.getBoundingClientRect().left;
    card.textContent = [
      hovered >= 0 ? words(hovered, s.p).replaceAll(', ', '\n') + (mates > 1 ? `\n${mates} boxes here` : '') : null,
      object ? `object ${get('gt_names')[object.i] ?? object.i}` : null,
    ]
      .filter(Boolean)
      .join('\n');
    s.stack.append(card);
    const right = x > s.stack.clientWidth / 2;
    Object.assign(card.style, {
      left: right ? '' : `${x + 14}px`,
      right: right ? `${s.stack.clientWidth - x + 14}px` : '',
      top: `${Math.max(0, Math.min(s.stack.clientHeight - 80, e.clientY - s.stack.getBoundingClientRect().top + 8))}px`,
    });
  }

  function nudge(e) {
    // Alt and an arrow move the picked object by a pixel, if it may be dragged; with Shift they move its lower right corner
    const i = get('selected_gt'),
      by = {ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1]}[e.key];
    if (!by || i < 0 || !get('drag').includes(i)) return false;
    const next = new Float32Array(d.gts);
    for (let j = e.shiftKey ? 2 : 0; j < 4; j++) next[4 * i + j] += by[j % 2];
    if (next[4 * i + 2] > next[4 * i] && next[4 * i + 3] > next[4 * i + 1]) put({gts: new DataView(next.buffer)});
    return true;
  }

  root.addEventListener('keydown', e => {
    const free = !/^(INPUT|SELECT|TEXTAREA)$/.test(e.target.tagName) && !e.ctrlKey && !e.metaKey;
    if (!free || (e.altKey && !nudge(e))) return;
    if (e.altKey) {
      e.preventDefault();
      e.stopPropagation();
      return;
    }
    const idx = stacks[0]?.idx || [],
      step = by => {
        if (!idx.length) return;
        const k = idx.indexOf(hovered >= 0 ? hovered : get('selected_prior'));
        put({hovered: k < 0 ? idx[by > 0 ? 0 : idx.length - 1] : idx[(k + by + idx.length) % idx.length]});
      };
    const [cx, cy, z] = viewNow(),
      far = size[1] / 8 / z,
      objects = by => {
        if (d.g) put({selected_gt: (get('selected_gt') < 0 && by < 0 ? d.g - 1 : get('selected_gt') + by + d.g) % d.g});
      };
    const keys = {
      ArrowRight: () => step(1),
      ArrowDown: () => step(1),
      ArrowLeft: () => step(-1),
      ArrowUp: () => step(-1),
      Enter: () => {
        if (hovered >= 0) select('prior', hovered);
      },
      ']': () => objects(1),
      '[': () => objects(-1),
      '+': () => zoom(1.25),
      '=': () => zoom(1.25),
      '-': () => zoom(0.8),
      0: () => zoom(0),
      Escape: () => put({hovered: -1, selected_prior: -1, selected_gt: -1}),
      PageDown: () => put({scene: Math.min(get('scene') + 1, get('scenes').length - 1)}),
      PageUp: () => put({scene: Math.max(get('scene') - 1, 0)}),
    };
    const shifted = {ArrowRight: [far, 0], ArrowLeft: [-far, 0], ArrowDown: [0, far], ArrowUp: [0, -far]}[e.key];
    if (e.shiftKey && shifted) put({view: [cx + shifted[0], cy + shifted[1], z]});
    else if (keys[e.key] && !(e.key === 'Enter' && e.target !== root)) keys[e.key]();
    else if (/^[1-9]$/.test(e.key) && +e.key <= get('level_names').length) {
      const k = +e.key - 1;
      put({levels: get('levels').includes(k) ? get('levels').filter(v => v !== k) : [...get('levels'), k].sort((a, b) => a - b)});
    } else return;
    e.preventDefault();
    e.stopPropagation();
  });

  // ------------------------------------------------------------ everything that waits for the next frame
  const jobs = {
    layout,
    controls: drawControls,
    scenes: drawScenes,
    boxes: drawBoxes,
    over: drawOver,
    panels: drawPanels,
    filters: drawFilters,
    counts: refreshFilters,
    say,
  };
  const after = {
    boxes: ['over', 'counts', 'say'],
    over: ['say'],
    layout: ['boxes', 'over', 'filters', 'say'],
    filters: ['counts'],
  };
  function queue(...names) {
    if (!queued.size && !gone) requestAnimationFrame(flush);
    for (const n of names) {
      queued.add(n);
      for (const m of after[n] || []) queued.add(m);
    }
  }
  function flush() {
    const now = queued;
    queued = new Set();
    for (const k of Object.keys(jobs)) if (now.has(k)) jobs[k]();
  }
  const hear = (names, fn) => names.split(' ').forEach(k => model.on(`change:${k}`, fn));
  async function loadPicture() {
    const bytes = get('image');
    picture = bytes && bytes.byteLength ? await createImageBitmap(new Blob([bytes])) : null;
    queue('boxes');
  }
  hear(Object.keys(ARRAYS).join(' ') + ' size', () => {
    const n = d.n;
    load();
    queue('boxes');
    if (d.n !== n) queue('filters');
  });
  hear('styles names level_names score_range', () => queue('boxes', 'filters'));
  hear('show levels classes threshold view renderer fade seq', () => queue('boxes'));
  hear('selected_prior selected_gt gt_names drag', () => queue('boxes', 'panels'));
  hear('panels notes gt_notes', () => queue('panels'));
  hear('controls', () => queue('controls'));
  hear('params', refreshControls);
  hear('panes', () => queue('layout'));
  hear('scenes', () => queue('scenes'));
  hear('scene', () => {
    applyScene();
    queue('scenes');
  });
  hear('image', loadPicture);
  hear('message', () => {
    note.hidden = !get('message');
    note.textContent = get('message');
  });
  hear('hovered', () => {
    hovered = get('hovered');
    queue('over');
  });
  note.hidden = !get('message');
  note.textContent = get('message');
  load();
  queue('layout', 'controls', 'scenes', 'panels');
  loadPicture();
  if (locked && get('scenes').length && get('scene') >= 0) applyScene();
  const watcher = new ResizeObserver(() => queue('boxes'));
  watcher.observe(panes);
  root.boxcanvas = {
    model,
    stacks: () => stacks,
    data: () => d,
    lastDraw: () => lastDraw,
    at: (x, y, pane = 0) => {
      // where a point of the picture is on the screen
      const s = stacks[pane],
        r = s.base.getBoundingClientRect();
      return [r.left + (x * s.t.s + s.t.ox) / s.dpr, r.top + (y * s.t.s + s.t.oy) / s.dpr];
    },
  };
  return () => {
    gone = true;
    watcher.disconnect();
    root.remove();
  };
}

// ---------------------------------------------------------------- without a kernel: the same view over a plain object
export class Frozen {
  constructor(state) {
    this.state = state;
    this.heard = {};
  }
  get(k) {
    return this.state[k];
  }
  set(k, v) {
    if (this.state[k] === v) return;
    this.state[k] = v;
    for (const fn of this.heard[`change:${k}`] || []) fn();
  }
  on(name, fn) {
    (this.heard[name] ||= []).push(fn);
  }
  off() {}
  save_changes() {}
}
const revive = (key, v) =>
  v && typeof v === 'object' && typeof v.base64 === 'string'
    ? new DataView(Uint8Array.from(atob(v.base64), c => c.charCodeAt(0)).buffer)
    : v;
export function mount(host, json) {
  const model = new Frozen(JSON.parse(json, revive));
  render({model, el: host});
  const grow = () => {
    try {
      if (globalThis.frameElement) frameElement.style.height = `${document.documentElement.scrollHeight + 4}px`;
    } catch {
      /* another origin's frame keeps its height */
    }
  };
  new ResizeObserver(grow).observe(host);
}

export default {render};
