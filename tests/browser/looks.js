// What a test asks of the rendered page. Colours are those that the browser computed, boxes those that it laid out.
(() => {
  const numbers = (colour) => (colour.match(/[\d.]+/g) || []).map(Number);
  const luminance = ([r, g, b]) => {
    const [R, G, B] = [r, g, b].map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * R + 0.7152 * G + 0.0722 * B;
  };
  const contrast = (a, b) => {
    const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
    return (high + 0.05) / (low + 0.05);
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = numbers(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const box = (element) => {
    const { left, right, top, bottom, width, height } = element.getBoundingClientRect();
    return { left, right, top, bottom, width, height };
  };
  const texts = () => [...document.querySelectorAll("body *")].filter((element) =>
    [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()) && box(element).width > 0);

  return {
    /** Texts with too little contrast: what they say, and the contrast. */
    faint: () => texts().map((element) => {
      const style = getComputedStyle(element);
      const colour = element.closest("svg") ? style.fill : style.color;
      const alpha = numbers(colour)[3] ?? 1;
      return { text: element.textContent, contrast: contrast(numbers(colour), behind(element)) * alpha };
    }).filter(({ contrast }) => !(contrast >= 4.5)),

    /** Contrasts of the lines and bars of figures. */
    strokes: () => [...document.querySelectorAll("figure svg path, figure svg use")].map((element) => {
      const style = getComputedStyle(element);
      return { stroke: style.stroke, contrast: contrast(numbers(style.stroke), behind(element)) };
    }).filter(({ stroke }) => stroke !== "none"),

    /** Elements beyond the window's right edge that no scrolling box holds. */
    beyond: () => [...document.querySelectorAll("body *")]
      .filter((element) => !element.closest(".box") && box(element).right > innerWidth + 1)
      .map((element) => element.outerHTML.slice(0, 120)),

    /** Pairs of texts of a figure that lie over each other. */
    collisions: () => [...document.querySelectorAll("figure svg")].flatMap((svg) => {
      const all = [...svg.querySelectorAll("text")].map((text) => ({ text: text.textContent, ...box(text) }));
      return all.flatMap((a, i) => all.slice(i + 1).filter((b) =>
        Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
        && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3).map((b) => [a.text, b.text]));
    }),

    figures: () => [...document.querySelectorAll("figure")].map((figure) => ({
      name: figure.id, panels: [...figure.querySelectorAll("svg[role=img]")].map(box) })),

    bars: () => [...document.querySelectorAll("[id^=timeline-0-bar-] path")].map((bar) => ({
      row: Number(bar.parentElement.id.split("-").pop()), ...box(bar) })),
  };
})()
