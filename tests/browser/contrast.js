// What has too little contrast: all text by WCAG AA, and the shapes that carry meaning.
() => {
  const numbers = (colour) => colour.match(/[0-9.]+/g).map(Number);
  const parse = (colour) => (numbers(colour).length < 4 ? [...numbers(colour), 1] : numbers(colour));
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3]));
  const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const ground = (element) => {
    if (!element) return [255, 255, 255];
    return over(parse(getComputedStyle(element).backgroundColor), element.parentElement ? ground(element.parentElement) : [255, 255, 255]);
  };
  const ratio = (a, b) => {
    const [more, less] = [light(a), light(b)].sort((p, q) => q - p);
    return (more + 0.05) / (less + 0.05);
  };
  const low = [];
  let seen = 0;
  const check = (colour, behind, least, what) => {
    seen += 1;
    const found = ratio(over(parse(colour), behind), behind);
    if (found < least) low.push([what, found.toFixed(2)]);
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), element = walker.currentNode.parentElement;
    if (!text || !element.checkVisibility() || element.closest("noscript, .unseen")) continue;
    const style = getComputedStyle(element), size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    check(style.color, ground(element), large ? 3 : 4.5, text);
  }
  for (const element of document.querySelectorAll(".state, .card, input, button, svg path, .track i")) {
    if (!element.checkVisibility()) continue;
    const style = getComputedStyle(element), surface = element.closest(".card, dialog");
    const colour = { path: style.fill, I: style.backgroundColor }[element.tagName] ?? style.borderLeftColor;
    check(colour, ground(surface === element ? element.parentElement : surface), 3, element.outerHTML.slice(0, 80));
  }
  return [seen, low];
}
