# One image for every process of Carrel; docker-compose.yml says which one a container runs.
ARG PYTHON=python:3.11.14-slim-trixie

FROM ${PYTHON} AS build
WORKDIR /build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
COPY pyproject.toml requirements.lock ./
COPY tools/runtime_lock.py tools/
# The part of the lock that the processes need: without the tools of development and the embedded PostgreSQL and NATS.
RUN python tools/runtime_lock.py > runtime.txt && python tools/runtime_lock.py hatchling > build.txt \
 && pip install --require-hashes -r build.txt \
 && python -m venv /opt/carrel && /opt/carrel/bin/pip install --require-hashes -r runtime.txt
# The project comes last: a change of it leaves the layers above as they are.
COPY README.md ./
COPY libs libs
COPY services services
COPY gateway gateway
RUN pip wheel --no-deps --no-build-isolation --wheel-dir dist . && /opt/carrel/bin/pip install --no-deps dist/*.whl

FROM ${PYTHON}
# A new volume takes the owner and the mode of the folder that it covers: so prepare and tools may write without being root.
RUN groupadd --gid 10001 carrel && useradd --uid 10001 --gid 10001 --no-create-home --home-dir / --shell /usr/sbin/nologin carrel \
 && install -d -o carrel -g carrel -m 0700 /secrets /corpora
COPY --from=build /opt/carrel /opt/carrel
# SAFEPATH: what lies in the working folder is never imported.
ENV PATH=/opt/carrel/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PYTHONSAFEPATH=1
WORKDIR /
USER 10001:10001
# No CMD: a container without a command of its own would be nobody in particular.
