"""The modules that code in the sandbox may import even where the interpreter's own folder is closed to it, as root's is to nobody."""

import array
import base64
import binascii
import bisect
import calendar
import collections
import colorsys
import copy
import csv
import ctypes
import dataclasses
import datetime
import decimal
import difflib
import encodings.ascii
import encodings.cp1252
import encodings.idna
import encodings.latin_1
import encodings.utf_8_sig
import encodings.utf_16
import enum
import fractions
import functools
import hashlib
import heapq
import html.parser
import io
import itertools
import json
import math
import operator
import pathlib
import pprint
import random
import re
import secrets
import shutil
import socket
import sqlite3
import statistics
import string
import struct
import subprocess
import tempfile
import textwrap
import threading
import time
import traceback
import typing
import unicodedata
import urllib.parse
import uuid
import xml.etree.ElementTree
import zipfile
import zlib
import zoneinfo

import duckdb

MODULES = (
    *(encodings.ascii, encodings.cp1252, encodings.latin_1, encodings.utf_8_sig, encodings.utf_16),
    *(
        array,
        base64,
        binascii,
        bisect,
        calendar,
        collections,
        colorsys,
        copy,
        csv,
        ctypes,
        dataclasses,
        datetime,
        decimal,
    ),
    *(
        difflib,
        encodings.idna,
        enum,
        fractions,
        functools,
        hashlib,
        heapq,
        html.parser,
        io,
        itertools,
        json,
        math,
        operator,
    ),
    *(pathlib, pprint, random, re, secrets, shutil, socket, sqlite3, statistics, string, struct, subprocess, tempfile),
    *(
        textwrap,
        threading,
        time,
        traceback,
        typing,
        unicodedata,
        urllib.parse,
        uuid,
        xml.etree.ElementTree,
        zipfile,
        zlib,
    ),
    *(zoneinfo, duckdb),
)
