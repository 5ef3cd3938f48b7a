"""`carrel agents` and `carrel tools`: what there is to use."""

from __future__ import annotations

from carrel_cli.command import Session, client_command


@client_command
async def agents(session: Session) -> None:
    """Lists the agents that can be started."""
    from carrel_cli.documents import document

    found = await session.client.list_agents()
    session.out.document({"agents": [document(agent) for agent in found]})
    session.out.table(["AGENT", "WHAT IT DOES"], [(agent.name, agent.description) for agent in found], "No agents.")


@client_command
async def tools(session: Session) -> None:
    """Lists the tools that your agents may use now."""
    from carrel_cli.documents import document

    found = await session.client.list_tools()
    session.out.document({"tools": [document(tool) for tool in found]})
    session.out.table(["TOOL", "WHAT IT DOES"], [(tool.name, tool.description) for tool in found], "No tools.")
