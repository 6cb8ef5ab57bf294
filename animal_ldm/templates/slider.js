// Without this script all frames are shown side by side.
const time = document.getElementById("time");
if (time) {
  const frames = [...document.querySelectorAll(".frames figure")];
  const said = document.querySelector(".slider output");
  const show = () => {
    frames.forEach((frame, i) => frame.classList.toggle("shown", i === Number(time.value)));
    said.value = frames[time.value].querySelector("figcaption").textContent;
    time.setAttribute("aria-valuetext", said.value);
  };
  document.documentElement.classList.add("scripted");
  time.addEventListener("input", show);
  show();
}
