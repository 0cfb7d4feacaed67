// Small comforts. Every page works without them.
"use strict";

// The viewer's time zone, sent along with the sign-in form.
for (const field of document.querySelectorAll("[data-zone]")) {
  field.value = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";
}

// A button that copies the text of the element that it names.
for (const button of document.querySelectorAll("[data-copy]")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent.trim());
    button.textContent = "Copied";
  });
}

// A button that asks before its form is sent.
for (const form of document.querySelectorAll("form[data-confirm]")) {
  form.addEventListener("submit", (event) => {
    if (!window.confirm(form.dataset.confirm)) event.preventDefault();
  });
}

// A page that says how often it changes. It stays as it is while somebody types, or has opened something.
// What it becomes says again how often.
async function renew() {
  if (document.hidden || document.activeElement.matches("input, select, textarea") || document.querySelector("details[open]")) return;
  const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
  if (!answer.ok || answer.redirected) return location.reload();
  const next = new DOMParser().parseFromString(await answer.text(), "text/html");
  document.getElementById("main").replaceWith(next.getElementById("main"));
  document.body.dataset.refresh = next.body.dataset.refresh;
}
function renewLater() {
  const seconds = Number(document.body.dataset.refresh);
  if (seconds > 0) setTimeout(() => renew().catch(() => {}).finally(renewLater), seconds * 1000);
}
renewLater();
