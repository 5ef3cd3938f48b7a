"""The tools that come with Carrel. They know the seam of tools and nothing else."""

from __future__ import annotations

from carrel_tools.shipped.corpus_delete import CorpusDelete
from carrel_tools.shipped.echo import Echo
from carrel_tools.shipped.sql_query import SqlQuery
from carrel_tools.shipped.statistics import Statistics
from carrel_tools.tool import Tool

TOOLS: tuple[type[Tool], ...] = (Echo, SqlQuery, Statistics, CorpusDelete)
