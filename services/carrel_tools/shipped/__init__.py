"""The tools that come with Carrel. They know the seam of tools and nothing else."""

from __future__ import annotations

from carrel_tools.shipped.corpus_admin import CorpusAdmin
from carrel_tools.shipped.corpus_delete import CorpusDelete
from carrel_tools.shipped.corpus_search import CorpusSearch
from carrel_tools.shipped.echo import Echo
from carrel_tools.shipped.http_fetch import HttpFetch
from carrel_tools.shipped.python import Python
from carrel_tools.shipped.sql_query import SqlQuery
from carrel_tools.shipped.statistics import Statistics
from carrel_tools.tool import Tool

TOOLS: tuple[type[Tool], ...] = (
    *(Echo, SqlQuery, Statistics, CorpusSearch, Python, HttpFetch),
    *(CorpusAdmin, CorpusDelete),
)
