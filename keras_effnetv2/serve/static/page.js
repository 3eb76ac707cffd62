"use strict";
const settings = JSON.parse(document.body.dataset.settings);
const part = id => document.getElementById(id);
let shown = 0;  // number of the picture asked for last: answers for earlier ones come too late

const say = (text, failed = false) => {
  part("status").textContent = text;
  part("status").classList.toggle("failed", failed);
};

const asked = async (address, body) => {
  let response;
  try {
    response = await fetch(address, {method: "POST", body});
  } catch {
    throw new Error("the server cannot be reached");
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error || `the server answered ${response.status}`);
  return answer;
};

const base64 = file => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
  reader.onerror = () => reject(new Error("the file cannot be read"));
  reader.readAsDataURL(file);
});

const explain = async (file, number, name) => {
  for (const button of part("classes").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", button.textContent === name);
  }
  part("caption").textContent = "Computing the heat map\u2026";
  try {
    const answer = await asked(`/grad_cam?class_name=${encodeURIComponent(name)}`, file);
    const pressed = part("classes").querySelector("[aria-pressed=true]");
    if (number !== shown || pressed.textContent !== name) return;
    part("overlay").src = answer.overlay;
    part("overlay").alt = `Grad-CAM heat map for ${name}`;
    part("overlay").hidden = part("opacity-row").hidden = false;
    part("caption").textContent =
      `With the Grad-CAM heat map for ${name}: the brighter a place, the more it raised the score.`;
  } catch (error) {
    if (number === shown) part("caption").textContent = `No heat map: ${error.message}.`;
  }
};

const percent = share => share.toLocaleString("en", {style: "percent", minimumFractionDigits: 1});

const row = (name, score, threshold, choose) => {
  const line = document.createElement("tr");
  const head = document.createElement("th");
  const cell = document.createElement("td");
  head.scope = "row";
  if (choose) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    button.addEventListener("click", choose);
    head.append(button);
  } else {
    head.textContent = name;
  }
  cell.className = "bar";
  cell.style.setProperty("--share", `${100 * score}%`);
  cell.textContent = percent(score);
  line.append(head, cell);
  if (threshold !== undefined) {
    const from = document.createElement("td");
    from.className = "number";
    from.textContent = percent(threshold);
    line.append(from);
    line.classList.toggle("named", score >= threshold);
  }
  return line;
};

const show = (file, number, answer) => {
  URL.revokeObjectURL(part("picture").src);
  part("picture").src = URL.createObjectURL(file);
  part("picture").alt = `The picture ${file.name}`;
  part("overlay").hidden = part("opacity-row").hidden = true;
  const choose = settings.grad_cam && (name => () => explain(file, number, name));
  part("classes").replaceChildren(...answer.classes.map(
    (name, i) => row(name, answer.scores[i], answer.thresholds?.[i], choose && choose(name))));
  part("threshold").hidden = !answer.thresholds;
  part("hint").textContent = choose ? "Choose a class to see its heat map." : "";
  part("caption").textContent = choose ? "" : "No heat map: Grad-CAM needs the Keras model of a "
    + "run, and this server has only the exported model.";
  part("answer").hidden = false;
  // Where a picture may have several classes: those above their thresholds.
  const named = answer.thresholds
    ? answer.classes.filter((_, i) => answer.scores[i] >= answer.thresholds[i])
    : answer.classes.slice(0, 1);
  say(`${file.name}: ${named.join(", ") || "no class"}`);
  if (choose) explain(file, number, answer.classes[0]);
};

const classify = async file => {
  const number = ++shown;
  part("answer").hidden = true;
  say(`Classifying ${file.name}\u2026`);
  try {
    const request = {signature_name: "classify_bytes", instances: [{b64: await base64(file)}]};
    const address = `/v1/models/${encodeURIComponent(settings.name)}:predict`;
    const [answer] = (await asked(address, JSON.stringify(request))).predictions;
    if (number !== shown) return;
    if (answer.error) throw new Error(answer.error);
    show(file, number, answer);
  } catch (error) {
    if (number === shown) say(`${file.name}: ${error.message}`, true);
  }
};

part("file").addEventListener("change", event => {
  if (event.target.files.length) classify(event.target.files[0]);
  event.target.value = "";  // so that the same file can be chosen again
});
// On the whole page: a file that misses the field would otherwise replace the page.
addEventListener("dragover", event => {
  event.preventDefault();
  part("drop").classList.add("over");
});
addEventListener("dragleave", () => part("drop").classList.remove("over"));
addEventListener("drop", event => {
  event.preventDefault();
  part("drop").classList.remove("over");
  if (event.dataTransfer.files.length) classify(event.dataTransfer.files[0]);
});
part("opacity").addEventListener("input", event => {
  part("stack").style.setProperty("--overlay", event.target.value / 100);
});
