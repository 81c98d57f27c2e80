# Backout alone: never install it into an application's image. Build: docker build -t backout .
FROM python:3.13-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/backout
WORKDIR /src
COPY requirements.lock requirements-dev.lock ./
RUN /opt/backout/bin/pip install --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY bot bot
COPY handlers handlers
COPY playground playground
# The build backend comes from the lock as well; it stays in this stage.
RUN python -m venv /opt/builder \
 && /opt/builder/bin/pip install --require-hashes -r requirements-dev.lock \
 && /opt/builder/bin/python -m hatchling build -t wheel -d /dist \
 && /opt/backout/bin/pip install --no-deps /dist/*.whl

FROM python:3.13-slim
# Debian's client tools speak TLS; those of the embedded Postgres do not.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends postgresql-client \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --create-home --home-dir /home/backout backout \
 && install -d -o backout -g backout -m 0700 /var/lib/backout
COPY --from=build /opt/backout /opt/backout
ENV PATH=/opt/backout/bin:$PATH BACKOUT_HOME=/var/lib/backout BACKOUT_CONFIG=/etc/backout/backout.yml PYTHONUNBUFFERED=1
USER backout
VOLUME /var/lib/backout
EXPOSE 3000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
  CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ.get('PORT', '3000') + '/healthz', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["backout"]
CMD ["serve"]
