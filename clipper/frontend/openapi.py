def openapi_document() -> bytes:
    return b"{}"


DOCS_PAGE = b""
