// The visitor's name is shown beside what they write.
const chat = document.querySelector("loquent-chat");

chat.getSecret = async () => {
  const response = await fetch("/chat-secret", { method: "POST" });
  if (!response.ok) throw new Error("Sign in first.");
  const secret = await response.json();
  chat.setUser({ id: chat.getAttribute("user"), name: secret.name });
  return secret;
};
