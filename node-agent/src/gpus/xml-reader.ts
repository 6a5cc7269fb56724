import { AppError } from "@hostler/shared/errors.ts";

export interface XmlElement {
  readonly name: string;
  readonly attributes: Readonly<Record<string, string>>;
  readonly children: readonly XmlElement[];
  /** Without the white space around it; empty for an element with children. */
  readonly text: string;
}

interface Open {
  readonly name: string;
  readonly attributes: Readonly<Record<string, string>>;
  readonly children: XmlElement[];
  text: string;
}

const LENGTH_MAX = 16 * 1024 * 1024;
const ELEMENTS_MAX = 200_000;
const DEPTH_MAX = 32;
const NAME = "[A-Za-z_][A-Za-z0-9_.-]*";
const DECLARATION = /^\uFEFF?\s*(?:<\?xml [^?<>]*\?>)?\s*/;
/** Only the name of a definition: it is never fetched, and one that is written out here is refused. */
const DOCTYPE = new RegExp(String.raw`^<!DOCTYPE ${NAME}(?: SYSTEM "[^"<>]*")?>\s*`);
const ENTITIES: Readonly<Record<string, string>> = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'" };

/**
 * Reads the small part of XML that tools of hosts print: elements, attributes, text and the five named entities. No
 * definitions, no comments, no processing instructions, no text beside elements: all of that is refused, and so is a
 * document that does not end.
 */
export function readXml(input: string): XmlElement {
  if (input.length > LENGTH_MAX) throw refusal(`more than ${LENGTH_MAX} characters`);
  const body = input.replace(DECLARATION, "").replace(DOCTYPE, "");
  const token = new RegExp(String.raw`<(/?)(${NAME})((?: +${NAME}="[^"<]*")*) *(/?)>|([^<]+)`, "y");
  const open: Open[] = [];
  let root: XmlElement | null = null;
  for (let count = 0; token.lastIndex < body.length; count += 1) {
    const start = token.lastIndex;
    const match = token.exec(body);
    if (match === null || count > ELEMENTS_MAX)
      throw refusal(`at character ${start}: ${body.slice(start, start + 60)}`);
    const [, closing, name = "", attributes = "", empty, text] = match;
    const parent = open.at(-1);
    if (text !== undefined) {
      addText(parent, text);
      continue;
    }
    if (root !== null) throw refusal("a second root");
    if (closing === "/") {
      const ended = open.pop();
      if (ended?.name !== name || attributes !== "" || empty === "/") throw refusal(`</${name}> ends nothing`);
      root = close(ended, open.at(-1));
      continue;
    }
    if (open.length >= DEPTH_MAX) throw refusal(`deeper than ${DEPTH_MAX}`);
    const element: Open = { name, attributes: attributesOf(attributes), children: [], text: "" };
    if (empty === "/") root = close(element, parent);
    else open.push(element);
  }
  if (root === null) throw refusal(`it ends within <${open.at(-1)?.name ?? "nothing"}>`);
  return root;
}

/** The finished element goes to its parent; without one it is the root. */
function close({ name, attributes, children, text }: Open, parent: Open | undefined): XmlElement | null {
  const trimmed = decoded(text.trim());
  if (trimmed !== "" && children.length > 0) throw refusal(`text beside elements in <${name}>`);
  const element: XmlElement = { name, attributes, children, text: trimmed };
  if (parent === undefined) return element;
  parent.children.push(element);
  return null;
}

function addText(parent: Open | undefined, text: string): void {
  if (parent !== undefined) parent.text += text;
  else if (text.trim() !== "") throw refusal("text outside of the root");
}

function attributesOf(text: string): Record<string, string> {
  const attributes: Record<string, string> = {};
  for (const [, name = "", value = ""] of text.matchAll(/ ([^ =]+)="([^"]*)"/g)) {
    if (Object.hasOwn(attributes, name)) throw refusal(`the attribute ${name} twice`);
    attributes[name] = decoded(value);
  }
  return attributes;
}

function decoded(text: string): string {
  return text.replaceAll(/&([^;&]*);?/g, (whole, name: string) => {
    const character = whole.endsWith(";") && Object.hasOwn(ENTITIES, name) ? ENTITIES[name] : undefined;
    if (character === undefined) throw refusal(`the entity ${whole.slice(0, 40)}`);
    return character;
  });
}

function refusal(why: string): AppError {
  return new AppError("command_failed", { detail: `The XML cannot be read: ${why.slice(0, 300)}.` });
}
