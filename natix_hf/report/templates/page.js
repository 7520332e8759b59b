"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // Theme: that of the system until the user chooses one.
  const root = document.documentElement;
  const dark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const stored = () => { try { return localStorage.getItem("natix_hf-theme"); } catch { return null; } };
  if (stored()) root.dataset.theme = stored();
  const toggle = document.getElementById("theme");
  const name = () => { toggle.setAttribute("aria-label", dark() ? "Switch to the light theme" : "Switch to the dark theme"); };
  if (toggle) {
    name();
    toggle.addEventListener("click", () => {
      root.dataset.theme = dark() ? "light" : "dark";
      try { localStorage.setItem("natix_hf-theme", root.dataset.theme); } catch { /* kept for this view only */ }
      name();
    });
  }

  // The section in view is marked in the bar.
  const links = new Map(all(".bar nav a").map((link) => [link.hash.slice(1), link]));
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting || !links.has(entry.target.id)) continue;
      links.forEach((link) => link.removeAttribute("aria-current"));
      links.get(entry.target.id).setAttribute("aria-current", "true");
    }
  }, { rootMargin: "-20% 0px -70% 0px" });
  all("main section[id]").forEach((section) => seen.observe(section));

  // Sortable tables: by the number in data-value if a cell has one, else by its text.
  all("table.sorts").forEach((table) => {
    all("thead th", table).forEach((head, column) => {
      const button = head.querySelector("button");
      if (!button) return;
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        all("thead th", table).forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
        const rows = all("tbody tr", table).sort((a, b) => {
          const [x, y] = [key(a), key(b)];
          if (x === "" || y === "") return (x === "") - (y === "");
          const order = isNaN(x) || isNaN(y) ? String(x).localeCompare(y) : x - y;
          return up ? order : -order;
        });
        table.tBodies[0].append(...rows);
      });
    });
  });

  // Filters: a form with data-filters="#list" hides the entries whose data-* differ from what is chosen.
  all("form[data-filters]").forEach((form) => {
    const entries = all(form.dataset.entries, document.querySelector(form.dataset.filters));
    const apply = () => {
      let shown = 0;
      for (const entry of entries) {
        const fits = all("select, input", form).every((field) => {
          if (!field.value) return true;
          const value = entry.dataset[field.name] ?? "";
          if (field.type === "search") return entry.textContent.toLowerCase().includes(field.value.toLowerCase());
          return JSON.parse(value || "[]").includes(field.value);
        });
        entry.hidden = !fits;
        shown += fits;
      }
      const count = form.querySelector(".count");
      if (count) count.textContent = shown === entries.length ? `${shown} shown` : `${shown} of ${entries.length} shown`;
    };
    form.addEventListener("input", apply);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.reset();
    apply();
  });

  // Photos enlarge; arrow keys go on, A hides the attention map, Escape closes.
  const dialog = document.getElementById("viewer");
  if (dialog) {
    let shots = [], at = 0;
    const show = (index) => {
      at = (index + shots.length) % shots.length;
      const shot = shots[at];
      dialog.querySelector(".big").replaceChildren(shot.querySelector(".frame").cloneNode(true));
      dialog.querySelector(".detail").replaceChildren(shot.querySelector(".facts").cloneNode(true));
      dialog.querySelector(".where").textContent = `${at + 1} of ${shots.length}`;
      dialog.querySelector(".heat-toggle").hidden = !shot.querySelector(".heat");
    };
    const heat = () => {
      const hidden = document.body.classList.toggle("no-heat");
      all(".heat-toggle").forEach((button) => button.setAttribute("aria-pressed", String(!hidden)));
    };
    all(".shot button.open").forEach((button) => button.addEventListener("click", () => {
      const shot = button.closest(".shot");
      shots = all(".shot", shot.parentElement).filter((other) => !other.hidden && other.querySelector(".frame"));
      show(shots.indexOf(shot));
      dialog.showModal();
    }));
    all(".heat-toggle").forEach((button) => button.addEventListener("click", heat));
    dialog.querySelector(".previous").addEventListener("click", () => show(at - 1));
    dialog.querySelector(".next").addEventListener("click", () => show(at + 1));
    dialog.querySelector(".close").addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
    dialog.addEventListener("keydown", (event) => {
      if (event.key === "ArrowLeft") show(at - 1);
      else if (event.key === "ArrowRight") show(at + 1);
      else if (event.key === "a" || event.key === "A") heat();
      else return;
      event.preventDefault();
    });
  }

  // Charts show the values under the pointer, which are read from the paths of the curves.
  all("svg.chart[data-x]").forEach((svg) => {
    const readout = svg.parentElement.querySelector(".readout");
    const curves = all("path[data-name]", svg).map((path) => ({
      name: path.dataset.name,
      points: [...path.getAttribute("d").matchAll(/[ML]([-\d.]+),([-\d.]+)/g)].map((match) => [+match[1], +match[2]]),
    }));
    if (!readout || !curves.length) return;
    const scale = (text) => { const [a, b, from, to] = text.split(",").map(Number); return (p) => a + (p - from) / (to - from) * (b - a); };
    const [toX, toY] = [scale(svg.dataset.x), scale(svg.dataset.y)];
    const cursor = svg.querySelector(".cursor");
    const digits = (value) => Math.abs(value) >= 100 ? value.toFixed(0) : value.toFixed(3);
    svg.addEventListener("pointermove", (event) => {
      const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      const nearest = (points) => points.reduce((best, point) => Math.abs(point[0] - place.x) < Math.abs(best[0] - place.x) ? point : best);
      const found = curves.map((curve) => [curve.name, nearest(curve.points)]);
      const x = found[0][1][0];
      cursor.setAttribute("x1", x); cursor.setAttribute("x2", x); cursor.removeAttribute("visibility");
      readout.textContent = `${svg.dataset.xlabel} ${digits(toX(x))} · ` + found.map(([name, point]) => `${name} ${digits(toY(point[1]))}`).join(" · ");
    });
    svg.addEventListener("pointerleave", () => { cursor.setAttribute("visibility", "hidden"); readout.textContent = ""; });
  });
})();
