"""The same work on other servers, run by the interpreters they are installed for."""
