"""The command line's own client of the HTTP API: plain requests, and every failure as one sentence."""

from __future__ import annotations

from typing import Any

import httpx

from flywheel.errors import UnavailableError, UserError


class ApiClient:
    """Holds the connection. Paths are those of the README; answers are the decoded JSON."""

    def __init__(self, url: str, *, key: str = "", timeout_seconds: float = 120) -> None:
        self.url, self.key = url, key
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=url, timeout=timeout_seconds, headers=headers)

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        """GET with the query values that are not None."""
        return self._ask("GET", path, params={name: value for name, value in query.items() if value is not None})

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """POST a JSON body without the values that are None."""
        return self._ask("POST", path, json={name: value for name, value in body.items() if value is not None})

    def _ask(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """Raises UnavailableError when nothing answers, and UserError with the API's own message otherwise."""
        try:
            answer = self._http.request(method, path, **options)
        except httpx.TransportError as error:
            raise UnavailableError(
                f"No API answers at {self.url} ({type(error).__name__}). Start the appliance with `flywheel up`."
            ) from error
        body = answer.json() if answer.headers.get("content-type", "").startswith("application/json") else {}
        if answer.is_success or (path == "/readyz" and answer.status_code == 503):
            return dict(body)
        message = body.get("error", {}).get("message") or f"{method} {path} was answered with {answer.status_code}."
        raise UserError(message)
