"""The plain paths, and which model a request means that names none."""

OPERATION = "{operation:[a-z0-9_-]+(?:/[a-z0-9_-]+)*}"
ROUTES = (
    "/v1/embeddings",
    "/v1/completions",
    "/v1/moderations",
    "/v1/rerank",
    f"/v1/images/{OPERATION}",
    f"/v1/audio/{OPERATION}",
)
# OpenAI's API demands a model on the other paths. For images it has a default that changes, so such a request asks for
# a model without a name: "*" takes it, and its upstream decides.
DEFAULT_MODELS = {"/v1/moderations": "omni-moderation-latest", "/v1/images/{operation}": ""}
PATHS = frozenset(route.replace(OPERATION, "{operation}") for route in ROUTES)  # as aiohttp calls their resources
