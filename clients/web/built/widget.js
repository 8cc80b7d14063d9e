// Loquent's widget
