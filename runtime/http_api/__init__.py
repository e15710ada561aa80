"""OpenAI's shapes to ours and back: routes only, no process, no socket and no key."""
