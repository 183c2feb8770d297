"use strict";
(() => {
  const table = document.querySelector("table[data-sorts]");
  if (!table) return;
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const heads = Array.from(table.tHead.rows[0].cells);
  const form = document.getElementById("filters");
  const shown = document.getElementById("shown");
  const key = "nxm_sweep " + location.pathname;
  const state = { words: "", choices: {}, column: -1, down: false };

  const value = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.value === undefined ? cell.textContent.replace(/\s+/g, " ").trim() : cell.dataset.value;
  };
  const compare = (first, second, numeric) => {
    if (first === "" || second === "") return (first === "") - (second === ""); // what is missing comes last either way
    const sign = state.down ? -1 : 1;
    return sign * (numeric ? Number(first) - Number(second) : first.localeCompare(second, "en", { numeric: true }));
  };
  const sort = () => {
    heads.forEach((head, place) => {
      if (place === state.column) head.setAttribute("aria-sort", state.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    if (!(state.column in heads)) return;
    const numeric = heads[state.column].classList.contains("number");
    const order = rows.map((row, place) => [value(row, state.column), place, row]);
    order.sort((first, second) => compare(first[0], second[0], numeric) || first[1] - second[1]);
    body.append(...order.map((entry) => entry[2]));
  };
  const filter = () => {
    const words = state.words.toLowerCase().split(/\s+/).filter(Boolean);
    const choices = Object.entries(state.choices).filter((choice) => choice[1] !== "");
    let count = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      const kept = words.every((word) => text.includes(word)) && choices.every((choice) => value(row, choice[0]) === choice[1]);
      row.hidden = !kept;
      count += kept;
    }
    shown.textContent = count + " of " + rows.length + " " + shown.dataset.noun + " shown";
  };
  const keep = () => {
    try { sessionStorage.setItem(key, JSON.stringify(state)); } catch (error) { /* a browser may refuse it to files */ }
  };
  const restore = () => {
    try { Object.assign(state, JSON.parse(sessionStorage.getItem(key)) || {}); } catch (error) { /* the same */ }
  };

  if (form.dataset.keep !== undefined) restore(); // the page reloads itself
  heads.forEach((head, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      state.down = state.column === place ? !state.down : head.classList.contains("number");
      state.column = place;
      sort();
      keep();
    });
  });
  const search = form.querySelector("input");
  search.value = state.words;
  search.addEventListener("input", () => { state.words = search.value; filter(); keep(); });
  for (const select of form.querySelectorAll("select")) {
    select.value = state.choices[select.dataset.column] || "";
    select.addEventListener("change", () => { state.choices[select.dataset.column] = select.value; filter(); keep(); });
  }
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  sort();
  filter();
})();
