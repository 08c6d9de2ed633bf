"use strict";
// Sliders: the frame of the input's value is shown, and its caption is told.
for (const slider of document.querySelectorAll(".slider")) {
  const frames = slider.querySelectorAll(":scope > .frame");
  const label = slider.querySelector(":scope > label");
  const caption = slider.querySelector(":scope > [aria-live]");
  const input = label.querySelector("input");
  label.hidden = frames.length < 2;
  input.addEventListener("input", () => {
    frames.forEach((frame, i) => { frame.hidden = i + 1 !== Number(input.value); });
    caption.textContent = frames[input.value - 1].dataset.caption;
  });
}
