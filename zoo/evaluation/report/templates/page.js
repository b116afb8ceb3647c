// A click on a heading sorts its table, a second one turns the order around; rows without a number stay last.
for (const head of document.querySelectorAll(".sortable th")) {
  head.tabIndex = 0;
  const sort = () => {
    const body = head.closest("table").tBodies[0], at = head.cellIndex;
    const down = head.getAttribute("aria-sort") !== "descending";
    const value = row => {
      const cell = row.cells[at];
      return head.classList.contains("number") ? (cell.dataset.value === undefined ? null : Number(cell.dataset.value)) : cell.textContent;
    };
    const order = (a, b) => typeof a === "string" ? b.localeCompare(a) : b - a;
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    body.append(...[...body.rows].sort((one, other) => {
      const a = value(one), b = value(other);
      return a === null || b === null ? (a === null) - (b === null) : down ? order(a, b) : order(b, a);
    }));
  };
  head.addEventListener("click", sort);
  head.addEventListener("keydown", event => { if (event.key === "Enter") sort(); });
}
