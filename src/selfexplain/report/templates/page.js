"use strict";
// Sliders: the frame of the input's value is shown, and its caption is told. What scrolls in it
// stands where it stood in the frame before.
for (const slider of document.querySelectorAll(".slider")) {
  const frames = slider.querySelectorAll(":scope > .frame");
  const label = slider.querySelector(":scope > .control > label");
  const caption = slider.querySelector(":scope > .control > [aria-live]");
  const input = label.querySelector("input");
  label.hidden = frames.length < 2;
  input.addEventListener("input", () => {
    const now = frames[input.value - 1];
    const left = slider.querySelector(":scope > .frame:not([hidden]) .scroll")?.scrollLeft ?? 0;
    frames.forEach((frame) => { frame.hidden = frame !== now; });
    now.querySelector(".scroll")?.scrollTo({ left, behavior: "instant" });
    caption.textContent = now.dataset.caption;
  });
}
// How strongly all maps on the page are drawn.
for (const label of document.querySelectorAll(".strength > label")) {
  const input = label.querySelector("input");
  label.hidden = false;
  input.addEventListener("input", () => {
    document.documentElement.style.setProperty("--strength", String(input.value / 100));
  });
}
