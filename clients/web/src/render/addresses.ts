// Which addresses of a text are followed, and which pictures are fetched.

const LINKS = ["http:", "https:", "mailto:", "tel:"];
const PICTURES = "/v1/images/files/";
const PNG = /^data:image\/png;base64,[A-Za-z0-9+/]+=*$/;

// The address of a link, or nothing where it must not be one. Only whole addresses are.
export function linkOf(text: string): string | null {
  const url = parse(text);
  return url && LINKS.includes(url.protocol) ? url.href : null;
}

// The address of a picture that `server` has made, or that is in the text itself; any other would tell who reads it.
export function pictureOf(text: string, server: string): string | null {
  if (PNG.test(text)) return text;
  const url = parse(text);
  const { origin, pathname } = new URL(server);
  if (!url || url.username || url.origin !== origin) return null;
  const folders = [PICTURES, pathname.replace(/\/$/, "") + PICTURES]; // a proxy may have the server below a path
  return folders.some((folder) => url.pathname.startsWith(folder)) ? url.href : null;
}

function parse(text: string): URL | null {
  try {
    return new URL(text);
  } catch {
    return null;
  }
}
