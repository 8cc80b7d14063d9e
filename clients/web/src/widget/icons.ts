// Paths of 24 × 24, drawn as lines.

export const CHAT = "M21 12a8 8 0 0 1-8 8H4l2-3.2A8 8 0 1 1 21 12z";
export const CLOSE = "M6 6l12 12M18 6L6 18";
export const SEND = "M4 12h14M12 5l7 7-7 7";
export const STOP = "M7 7h10v10H7z";
export const RETRY = "M20 12a8 8 0 1 1-2.4-5.7M20 3v5h-5";
export const COPY = "M9 9h11v11H9zM5 15H4V4h11v1";
export const UP = "M7 11v9H4v-9zM7 11l4-8a2 2 0 0 1 2 2v4h6l-2 11H7";
export const DOWN = "M17 13V4h3v9zM17 13l-4 8a2 2 0 0 1-2-2v-4H5L7 4h10";
export const SPEAKER = "M4 9v6h4l5 4V5L8 9zM16 9a4 4 0 0 1 0 6M18.5 6.5a8 8 0 0 1 0 11";
export const MUTED = "M4 9v6h4l5 4V5L8 9zM16 9l5 6M21 9l-5 6";
export const RESET = "M12 5v14M5 12h14";
export const MICROPHONE = "M12 3a3 3 0 0 1 3 3v6a3 3 0 0 1-6 0V6a3 3 0 0 1 3-3zM5 11a7 7 0 0 0 14 0M12 18v3";
