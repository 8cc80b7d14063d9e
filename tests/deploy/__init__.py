"""The files that deploy the server, and the operator's page."""
