from tests.execution.test_runs import Runs
import json
async def test_dbg(system, ada):
    runs = Runs(system, ada)
    for agent, input in (("asking_apart", {}), ("caged", {"does": "use_everything"})):
        run = await runs.start(agent, input)
        import asyncio
        await asyncio.sleep(2)
        print(agent, await runs.get(run.run_id))
