"""An HTTP/1.1 client for what stands between a client and its replica: little work for a request, all of it bounded.

`serving.gateway` sends on with it. Whoever sends a request now and then takes a library.
"""

from serving.http_client.answer import Answer
from serving.http_client.client import HttpClient
from serving.http_client.errors import Broke, NotConnected, RequestFailed, Silent
from serving.http_client.headers import Headers

__all__ = ("Answer", "Broke", "Headers", "HttpClient", "NotConnected", "RequestFailed", "Silent")
