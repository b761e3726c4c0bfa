/**
 * Makes an element. Strings become text nodes, so they can never become markup.
 *
 * @param {string} name
 * @param {string} [className]
 * @param {...(Node | string)} children
 */
export function make(name, className = "", ...children) {
  const element = document.createElement(name);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

/** @param {string} id of an element that the page has */
export function byId(id) {
  return /** @type {HTMLElement} */ (document.getElementById(id));
}
