"""A page of another origin, in a browser on the server's own machine, can neither load a model nor change a setting."""

import functools
import http.server
import shutil
import threading

import pytest

from dualpath.serving import TritonServer, access
from paths import REPOSITORY

POST = """async ([url, headers]) => {
    const body = JSON.stringify({parameters: {config: '{"backend": "python"}', "file:1/model.py": "aW1wb3J0IG9z"}});
    try {
        const answer = await fetch(url, {method: "POST", mode: headers ? "cors" : "no-cors", body,
                                         headers: {"Content-Type": "text/plain", ...headers}});
        return answer.type;
    } catch (error) { return String(error); }
}"""
CLOSED = [
    "/v2/repository/models/evil/load",
    "/v2/repository/models/postprocess/unload",
    "/v2/trace/setting",
    "/v2/logging",
    "/v2/systemsharedmemory/region/a/register",
    "/v2/cudasharedmemory/region/a/register",
]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A server with one small model."""
    repository = tmp_path_factory.mktemp("model_repository")
    shutil.copytree(REPOSITORY / "postprocess", repository / "postprocess")
    with TritonServer(repository, http_port=0, grpc_port=0, metrics_port=0, server="embedded") as triton:
        yield triton


@pytest.fixture(scope="module")
def page(browser, tmp_path_factory):
    """A page of a site of its own."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "index.html").write_text("<!doctype html><title>site</title>")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{site.server_port}/")
        yield page
        page.close()
        site.shutdown()


@pytest.mark.parametrize("path", CLOSED)
def test_a_plain_post_of_a_foreign_page_arrives_and_is_refused(page, served, path):
    with page.expect_response(f"http://{served.http_url}{path}") as answer:
        page.evaluate(POST, [f"http://{served.http_url}{path}", None])
    assert answer.value.request.headers["content-type"] == "text/plain"
    assert answer.value.status == 403


def test_a_page_cannot_even_send_the_key(page, served):
    # A header of one's own needs the server's consent first, which Triton gives to nobody.
    said = page.evaluate(POST, [f"http://{served.http_url}/v2/logging", {access.HEADER: served.key}])
    assert said == "TypeError: Failed to fetch"
