"""A MODEL behind HTTP: OpenAI's transcriptions, streams over WebSockets, and a page with live captions."""
