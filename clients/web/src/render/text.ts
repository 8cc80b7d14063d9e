// Texts of others, without what would disguise them.

// Controls of terminals, and those that turn the direction of what follows. Marks of direction stay: they are harmless,
// and right-to-left languages need them.
const DISGUISES = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069\ufff9-\ufffb]|\u001b\[[\d;?]*[a-z]/gi;

export function clean(text: string): string {
  return text.replace(/\r\n?/g, "\n").replace(DISGUISES, "");
}
