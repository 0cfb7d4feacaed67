// Small comforts. Every page works without them.
"use strict";

// The viewer's time zone, sent along with the sign-in form.
for (const field of document.querySelectorAll("[data-zone]")) {
  field.value = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";
}

// A button that copies the text of the element that it names.
document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent.trim());
  button.textContent = "Copied";
});

// A button that asks before its form is sent.
document.addEventListener("submit", (event) => {
  const question = event.target.dataset.confirm;
  if (question && !window.confirm(question)) event.preventDefault();
});

// A double click sends a form once.
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (event.defaultPrevented || form.method !== "post") return;
  if (event.timeStamp - form.dataset.sent < 1000) event.preventDefault();
  else form.dataset.sent = event.timeStamp;
});

// Shows the buttons above, and lets the keyboard reach what scrolls sideways, in browsers that do not do so themselves.
function prepare() {
  for (const button of document.querySelectorAll("[data-copy]")) button.hidden = false;
  for (const each of document.querySelectorAll(".scroll, pre")) {
    if (each.scrollWidth > each.clientWidth) each.tabIndex = 0;
  }
}
prepare();

// A page that says how often it changes. It stays as it is while somebody types, or has opened something.
// What it becomes says again how often.
async function renew() {
  if (document.hidden || document.activeElement.matches("input, select, textarea") || document.querySelector("details[open]")) return;
  const answer = await fetch(location.href, { headers: { Accept: "text/html", "Authz-Refresh": "1" } });
  if (!answer.ok || answer.redirected) return location.reload();
  const next = new DOMParser().parseFromString(await answer.text(), "text/html");
  document.getElementById("main").replaceWith(next.getElementById("main"));
  prepare();
  document.body.dataset.refresh = next.body.dataset.refresh;
}
function renewLater() {
  const seconds = Number(document.body.dataset.refresh);
  if (seconds > 0) setTimeout(() => renew().catch(() => {}).finally(renewLater), seconds * 1000);
}
renewLater();
