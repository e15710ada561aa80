"""OpenAI's and Anthropic's shapes to ours and back: routes only, no process, no socket, no key."""
