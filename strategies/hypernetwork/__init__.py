"""Networks that turn a profile into an adapter: `network`, its input `profile`, and `outputs`, what it writes.

Profile-to-PEFT (arXiv 2510.16282); `server_steps` pulls clients' changes through a network that stays on the server.
"""
