// Tables that sort by a column: a press on its heading sorts, another one turns the order. "n/a" is always last.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      sortRows(table.tBodies[0], column, down ? -1 : 1);
    });
  });
}

function sortRows(body, column, sign) {
  const text = (row) => row.cells[column].textContent.trim();
  const missing = (row) => ["n/a", ""].includes(text(row));
  const rows = [...body.rows];
  const numeric = rows.every((row) => missing(row) || !Number.isNaN(Number(text(row))));
  rows.sort((a, b) => {
    if (missing(a) || missing(b)) return missing(a) - missing(b);
    return sign * (numeric ? Number(text(a)) - Number(text(b)) : text(a).localeCompare(text(b), "en", { numeric: true }));
  });
  body.append(...rows);
}
